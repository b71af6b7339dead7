"""What each file under ``pretrain/`` is, and the message when one that is needed is not there.

Sizes and checksums are those of the files as published; None where no published figure is known to
us.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from svc.errors import MissingFileError

PRETRAIN_DIR = Path("pretrain")

WHISPER_TINY_ASSET_SHA256 = "c869b551342be6ecb4644566711d2fca4bf365e36ad862ad65f0966e21a17678"
"""Checksum of the bundled encoder, written by scripts/make_whisper_tiny_asset.py."""

_NO_DOWNLOAD_ENCODER = "the speech encoder whisper-ppg-tiny needs no download"


@dataclass(frozen=True)
class PretrainedFile:
    """One weight file that users put under ``pretrain/``."""

    name: str  # file name, relative to the pretrain folder
    ids: tuple[str, ...]  # what asks for it: ids of speech encoders, F0 predictors, ...
    what: str  # what is inside, for messages
    size: int | None  # bytes
    sha256: str | None
    source: str  # who published it
    licence: str
    instead: str  # what works without it

    @property
    def size_text(self) -> str:
        """The size for people, e.g. ``"1.5 GB"``; empty when unknown."""
        if self.size is None:
            return ""
        giga = self.size / 1e9
        return f"{giga:.1f} GB" if giga >= 1 else f"{self.size / 1e6:.0f} MB"


def _whisper(name: str, model: str, ids: tuple[str, ...], size: int, sha256: str) -> PretrainedFile:
    return PretrainedFile(
        name=name,
        ids=ids,
        what=f"OpenAI Whisper {model}",
        size=size,
        sha256=sha256,
        source=f"OpenAI's Whisper release, model {model}",
        licence="MIT",
        instead=_NO_DOWNLOAD_ENCODER,
    )


_FILES = (
    PretrainedFile(
        name="checkpoint_best_legacy_500.pt",
        ids=("vec768l12", "vec256l9"),
        what="ContentVec, legacy form, 500 classes",
        size=None,
        sha256=None,
        source=(
            "the ContentVec authors' release (about 1.3 GB with optimizer state), or the 190 MB"
            " hubert_base.pt of the RVC project, renamed"
        ),
        licence="MIT",
        instead=_NO_DOWNLOAD_ENCODER,
    ),
    _whisper(
        "tiny.pt",
        "tiny",
        ("whisper-ppg-tiny",),
        75572083,
        "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9",
    ),
    _whisper(
        "base.pt",
        "base",
        ("whisper-ppg-base",),
        145262807,
        "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e",
    ),
    _whisper(
        "small.pt",
        "small",
        ("whisper-ppg-small",),
        483617219,
        "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794",
    ),
    _whisper(
        "medium.pt",
        "medium",
        ("whisper-ppg",),
        1528008539,
        "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1",
    ),
    _whisper(
        "large-v2.pt",
        "large-v2",
        ("whisper-ppg-large",),
        3086999982,
        "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524",
    ),
    PretrainedFile(
        name="fcpe.pt",
        ids=("fcpe",),
        what="FCPE pitch net of so-vits-svc 4.1",
        size=69005189,
        sha256="c3a8dd2dbd51baf19ed295006f2ac25dba6dd60adc7ec578ae5fbd94970951da",
        source="the FCPE author's weights for so-vits-svc 4.1",
        licence="MIT",
        instead="the weights inside the torchfcpe package are used when this file is absent",
    ),
)

PRETRAINED: dict[str, PretrainedFile] = {file.name: file for file in _FILES}
"""Every known file by its name."""


def whisper_tiny_asset() -> Path:
    """Path of the bundled Whisper tiny.en encoder (package data).

    Raises:
        MissingFileError: the installation lacks it.
    """
    path = Path(__file__).parent / "speech" / "assets" / "whisper_tiny_en_encoder.safetensors"
    if not path.is_file():
        raise MissingFileError(
            f"the bundled Whisper tiny encoder {path} is missing: the installation is incomplete,"
            " install svc again, or put OpenAI's tiny.pt into the pretrain folder"
        )
    return path


def torchfcpe_asset() -> Path | None:
    """Path of the FCPE weights inside the installed torchfcpe package, None where it is not
    installed.

    The package is located and never imported: its import needs torchaudio.
    """
    spec = importlib.util.find_spec("torchfcpe")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "assets" / "fcpe_c_v001.pt"
        if path.is_file():
            return path
    return None


def describe_missing(name: str, pretrain_dir: str | Path = PRETRAIN_DIR) -> str:
    """One line: which file is missing, what it is, where it goes and what works without it.

    Args:
        name: a key of `PRETRAINED`.
        pretrain_dir: the folder it was looked for in.
    """
    file = PRETRAINED[name]
    details = ", ".join(part for part in (file.what, file.size_text, f"from {file.source}") if part)
    return (
        f"{Path(pretrain_dir) / name} is missing ({details}), needed by {' and '.join(file.ids)}:"
        f" put it there under this name, or do without it: {file.instead}"
    )


def find_pretrained(name: str, pretrain_dir: str | Path = PRETRAIN_DIR) -> Path:
    """Path of a known weight file.

    Args:
        name: a key of `PRETRAINED`, e.g. ``"medium.pt"``.
        pretrain_dir: the folder that users put weight files into.

    Returns:
        The path of the existing file.

    Raises:
        MissingFileError: it is not there; the message says what it is, where it goes and what works
            without it.
        ValueError: `name` is not a known file.
    """
    if name not in PRETRAINED:
        raise ValueError(f"{name!r} is not in the table of pretrained files")
    path = Path(pretrain_dir) / name
    if not path.is_file():
        raise MissingFileError(describe_missing(name, pretrain_dir))
    return path
