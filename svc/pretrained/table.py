"""What each file under ``pretrain/`` is.

Sizes and checksums are those that publishers and mirrors state; a file may have been published in
more than one form.
"""

from __future__ import annotations

from dataclasses import dataclass

WHISPER_TINY_ASSET_SHA256 = "c869b551342be6ecb4644566711d2fca4bf365e36ad862ad65f0966e21a17678"
"""Checksum of the bundled encoder, written by scripts/make_whisper_tiny_asset.py."""
WHISPER_TINY_ASSET_SIZE = 16423432  # bytes

_NO_DOWNLOAD_ENCODER = "the speech encoder whisper-ppg-tiny needs no download"


@dataclass(frozen=True)
class Published:
    """One form in which a file was published."""

    size: int  # bytes
    sha256: str
    note: str = ""  # which form, where there are several


@dataclass(frozen=True)
class PretrainedFile:
    """One weight file that users put under ``pretrain/``."""

    name: str  # file name, relative to the pretrain folder
    ids: tuple[str, ...]  # what asks for it: ids of speech encoders, F0 predictors, vocoders
    what: str  # what is inside, for messages
    published: tuple[Published, ...]  # the usual form first; empty: no figures are known
    source: str  # who published it
    licence: str
    instead: str  # what works without it

    @property
    def size_text(self) -> str:
        """The usual size for people, e.g. ``"1.5 GB"``; empty when unknown."""
        return size_text(self.published[0].size) if self.published else ""


def size_text(size: int) -> str:
    """Return a number of bytes for people, e.g. ``"1.5 GB"`` or ``"76 MB"``."""
    giga = size / 1e9
    return f"{giga:.1f} GB" if giga >= 1 else f"{size / 1e6:.0f} MB"


def _whisper(name: str, model: str, encoder: str, size: int, sha256: str) -> PretrainedFile:
    return PretrainedFile(
        name=name,
        ids=(encoder,),
        what=f"OpenAI Whisper {model}",
        published=(Published(size, sha256),),
        source=f"OpenAI's Whisper release, model {model}",
        licence="MIT",
        instead=_NO_DOWNLOAD_ENCODER,
    )


def _graph(
    name: str, encoder: str, what: str, *published: Published, twin: str = ""
) -> PretrainedFile:
    """An ONNX graph of the collection that so-vits-svc 4.1 names; `twin` is the encoder that runs
    the same net from its own file.
    """
    return PretrainedFile(
        name=name,
        ids=(encoder,),
        what=f"ONNX graph of {what}",
        published=published,
        source="NaruseMioShirakana's collection MoeSS-SUBModel",
        licence="GPL-3.0",
        instead=f"{twin} is the same net" if twin else _NO_DOWNLOAD_ENCODER,
    )


_FILES = (
    PretrainedFile(
        name="checkpoint_best_legacy_500.pt",
        ids=("vec768l12", "vec256l9"),
        what="ContentVec, legacy form, 500 classes",
        published=(
            Published(
                1330114945,
                "60d936ec5a566776fc392e69ad8b630d14eb588111233fe313436e200a7b187b",
                "with optimizer state",
            ),
            Published(
                189507909,
                "f54b40fd2802423a5643779c4861af1e9ee9c1564dc9d32f54f20b5ffba7db96",
                "RVC's hubert_base.pt, renamed",
            ),
        ),
        source=(
            "the ContentVec authors' release, or the 190 MB hubert_base.pt of the RVC project,"
            " renamed"
        ),
        licence="MIT",
        instead=_NO_DOWNLOAD_ENCODER,
    ),
    _graph(
        "vec-256-layer-9.onnx",
        "vec256l9-onnx",
        "ContentVec, layer 9, projected",
        Published(293348935, "61d0d0598803f74d5a4bcba65ca367571889accc0e86196f0982e8e455d56393"),
        twin="vec256l9",
    ),
    _graph(
        "vec-256-layer-12.onnx",
        "vec256l12-onnx",
        "ContentVec, layer 12, projected",
        Published(378443394, "f506231205ffde84f6c82cbcc021315acdc0c9b14289042eaa616cb33717ed41"),
    ),
    _graph(
        "vec-768-layer-9.onnx",
        "vec768l9-onnx",
        "ContentVec, layer 9",
        Published(
            292561270,
            "580ba3f639f931e414ba4a3407bb3039c1a8023fc2400a72dd1729d2dd5e8c41",
            "May 2023",
        ),
        Published(
            292559872,
            "46d6ec0aec95f3d4e143250a6c8b401b17c23cbe8d67771ab3adcec88ae7f459",
            "April 2023",
        ),
    ),
    _graph(
        "vec-768-layer-12.onnx",
        "vec768l12-onnx",
        "ContentVec, layer 12",
        Published(
            377655729,
            "b3886e7dff1495cda514f94f4680a7b1261e05d6929f5c764cdb17934b413c2a",
            "May 2023",
        ),
        Published(
            377654043,
            "6aa5051b7afeb1c8a175697a067578ecdb872c358dbf8d5959861f8a50a39b89",
            "April 2023",
        ),
        twin="vec768l12",
    ),
    PretrainedFile(
        name="hubert-soft-0d54a1f4.pt",
        ids=("hubertsoft",),
        what="HuBERT-Soft, version 0.1",
        published=(
            Published(
                378435957, "e82e7d079df05fe3aa535f6f7d42d309bdae1d2a53324e2b2386c56721f4f649"
            ),
        ),
        source="bshall's HuBERT release v0.1",
        licence="MIT",
        instead=_NO_DOWNLOAD_ENCODER,
    ),
    _graph(
        "hubert-soft.onnx",
        "hubertsoft-onnx",
        "HuBERT-Soft",
        Published(378413589, "9b0de037dc7985226e3653019d5272830bdff80697ee570b2b35e532d2abf831"),
        twin="hubertsoft",
    ),
    _whisper(
        "tiny.pt",
        "tiny",
        "whisper-ppg-tiny",
        75572083,
        "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9",
    ),
    _whisper(
        "base.pt",
        "base",
        "whisper-ppg-base",
        145262807,
        "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e",
    ),
    _whisper(
        "small.pt",
        "small",
        "whisper-ppg-small",
        483617219,
        "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794",
    ),
    _whisper(
        "medium.pt",
        "medium",
        "whisper-ppg",
        1528008539,
        "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1",
    ),
    _whisper(
        "large-v2.pt",
        "large-v2",
        "whisper-ppg-large",
        3086999982,
        "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524",
    ),
    PretrainedFile(
        name="chinese-hubert-large-fairseq-ckpt.pt",
        ids=("cnhubertlarge",),
        what="Chinese HuBERT large",
        published=(
            Published(
                3799503913, "31a39438d2ca748d5626bb676493041166de03c93ec517774c6d90ebb2d715c5"
            ),
        ),
        source="TencentGameMate's release of chinese-hubert-large",
        licence="MIT",
        instead=_NO_DOWNLOAD_ENCODER,
    ),
    PretrainedFile(
        name="DPHuBERT-sp0.75.pth",
        ids=("dphubert",),
        what="DPHuBERT, HuBERT base pruned by 75 %",
        published=(
            Published(99132650, "384d72429163b79cd9f4deaf41aa2cbc990e7526b4430f2a22d40c5e70c14be7"),
        ),
        source="the DPHuBERT authors' release (pyf98)",
        licence="MIT",
        instead=_NO_DOWNLOAD_ENCODER,
    ),
    PretrainedFile(
        name="WavLM-Base+.pt",
        ids=("wavlmbase+",),
        what="WavLM Base+",
        published=(
            Published(
                377604817, "fcbcf2a94def92e90e086bb0727275d53b75a9c0e483e2abfa560ac951986b6d"
            ),
        ),
        source="Microsoft's WavLM release in unilm",
        licence="MIT",
        instead=_NO_DOWNLOAD_ENCODER,
    ),
    PretrainedFile(
        name="rmvpe.pt",
        ids=("rmvpe",),
        what="RMVPE pitch net",
        published=(
            Published(
                368492925,
                "19dc1809cf4cdb0a18db93441816bc327e14e5644b72eeaae5220560c6736fe2",
                "full, called model.pt there",
            ),
            Published(
                181184272,
                "6d62215f4306e3ca278246188607209f09af3dc77ed4232efdd069798c4ec193",
                "half precision, the RVC project's",
            ),
        ),
        source=(
            "yxlllc's RMVPE release 230917, where it is called model.pt, or the 181 MB rmvpe.pt of"
            " the RVC project"
        ),
        licence="none stated; the code it was trained with is Apache-2.0, the RVC collection MIT",
        instead="the F0 predictors fcpe, crepe, pm, dio and harvest need no download",
    ),
    PretrainedFile(
        name="fcpe.pt",
        ids=("fcpe",),
        what="FCPE pitch net of so-vits-svc 4.1",
        published=(
            Published(69005189, "c3a8dd2dbd51baf19ed295006f2ac25dba6dd60adc7ec578ae5fbd94970951da"),
        ),
        source="the FCPE author's weights for so-vits-svc 4.1",
        licence="MIT",
        instead="the weights inside the torchfcpe package are used when this file is absent",
    ),
    PretrainedFile(
        name="nsf_hifigan/model",
        ids=("nsf-hifigan",),
        what="NSF-HiFiGAN community vocoder",
        published=(
            Published(56825430, "2c576b63b7ed952161b70fad34e0562ace502ce689195520d8a2a6c051de29d6"),
        ),
        source=(
            "OpenVPI's vocoders release nsf-hifigan-v1, archive nsf_hifigan_20221211.zip; its"
            " config.json goes beside it"
        ),
        licence="CC BY-NC-SA 4.0",
        instead="conversion without diffusion and enhancer needs no mel vocoder",
    ),
)

PRETRAINED: dict[str, PretrainedFile] = {file.name: file for file in _FILES}
"""Every known file by its name."""


WHISPER_TINY_ASSET = PretrainedFile(
    name="whisper_tiny_en_encoder.safetensors",
    ids=("whisper-ppg-tiny",),
    what="encoder of OpenAI Whisper tiny.en",
    published=(Published(WHISPER_TINY_ASSET_SIZE, WHISPER_TINY_ASSET_SHA256),),
    source="OpenAI's Whisper release, model tiny.en, bundled with svc",
    licence="MIT",
    instead="",
)
"""The bundled encoder, which is used where tiny.pt is absent."""


def file_of(encoder: str) -> PretrainedFile:
    """Return the default file of a speech encoder or F0 predictor. Raises KeyError."""
    for file in _FILES:
        if encoder in file.ids:
            return file
    raise KeyError(encoder)
