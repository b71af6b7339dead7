"""The nets that are compared: what each is called, what it is made with and what is compared.

Read by both processes (the one with fairseq, the one with svc), so nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Tap = tuple[int | None, bool]  # layer (None: the end of the net), through the final projection
END: Tap = (None, False)


def label(tap: Tap) -> str:
    """Key of a tap in the files of arrays, e.g. "9", "9 projected", "end"."""
    layer, project = tap
    return f"{'end' if layer is None else layer}{' projected' if project else ''}"


@dataclass(frozen=True)
class Case:
    """One net with random weights, or one real file."""

    title: str
    maker: str  # module of this folder that builds it: make_<maker>.py
    source: str  # whose class computes the expected arrays
    files: tuple[
        str, ...
    ]  # formats it is saved in; the first is compared, the others must read alike
    taps: tuple[Tap, ...] = ((9, False), (12, False), END)
    ids: dict[str, Tap] = field(default_factory=dict)  # encoder id -> the tap that it gives
    padding: int = 0  # zeros on either side of the wave
    normalize: bool = False  # waves are normalised to mean 0, variance 1
    gigabytes: float = 3.0  # free memory it takes


_LARGE = ((9, False), (12, False), (24, False), END)


def _whisper(size: str, gigabytes: float, encoder: str | None = None) -> Case:
    return Case(
        f"Whisper {size}",
        "whisper",
        "openai-whisper AudioEncoder",
        ("OpenAI {dims, model_state_dict}, float16, with decoder",),
        taps=(END,),
        ids={encoder: END} if encoder else {},
        gigabytes=gigabytes,
    )


CASES = {
    "hubert-base": Case(
        "HuBERT base (ContentVec)",
        "fairseq",
        "fairseq HubertModel",
        (
            "fairseq zip, cfg a dict, Adam state",
            "fairseq zip, cfg OmegaConf",
            "fairseq legacy stream, cfg OmegaConf",
            "fairseq legacy stream, args Namespace",
        ),
        taps=((9, False), (12, False), END, (9, True)),
        ids={"vec768l12": (12, False), "vec256l9": (9, True)},
        gigabytes=5.0,
    ),
    "hubert-base-fp16": Case(
        "HuBERT base, half precision",
        "fairseq",
        "fairseq HubertModel, weights rounded",
        ("fairseq zip, cfg a dict, float16",),
        taps=((9, False), (12, False), END, (9, True)),
        ids={"vec768l12": (12, False), "vec256l9": (9, True)},
    ),
    "hubert-large": Case(
        "HuBERT large",
        "fairseq",
        "fairseq HubertModel",
        ("fairseq zip, cfg a dict",),
        taps=(*_LARGE, (9, True)),
        ids={"cnhubertlarge": END},
        gigabytes=6.0,
    ),
    "hubert-large-bias": Case(
        "HuBERT large, conv bias",
        "fairseq",
        "fairseq HubertModel",
        ("fairseq zip, cfg a dict",),
        taps=(*_LARGE, (9, True)),
        ids={"cnhubertlarge": END},
        gigabytes=6.0,
    ),
    "hubert-soft": Case(
        "hubert-soft",
        "hubert_soft",
        "torchaudio hubert_base(aux_num_out=256)",
        (
            "bshall, names with module.",
            "bshall, plain names",
            "bshall, {hubert: names with module.}",
        ),
        taps=((9, False), (12, False), END, (None, True)),
        ids={"hubertsoft": (None, True)},
        padding=40,
    ),
    "torchaudio-hubert": Case(
        "HuBERT base, torchaudio's names",
        "hubert_soft",
        "torchaudio hubert_base",
        ("torchaudio state dict",),
        ids={"vec768l12": (12, False)},
    ),
    "wavlm-base": Case(
        "WavLM base+",
        "wavlm",
        "torchaudio wavlm_base",
        ("unilm {cfg, model}",),
        ids={"wavlmbase+": END},
    ),
    "wavlm-large": Case(
        "WavLM large, normalised wave",
        "wavlm",
        "torchaudio wavlm_large",
        ("unilm {cfg, model}",),
        taps=_LARGE,
        normalize=True,
        gigabytes=6.0,
    ),
    "dphubert": Case(
        "DPHuBERT (pruned sizes of the spec's example)",
        "dphubert",
        "torchaudio wav2vec2_model, pruned (spec_encoders 9)",
        ("{config, state_dict}",),
        ids={"dphubert": END},
    ),
    "hf-contentvec": Case(
        "HuBERT base with final_proj",
        "transformers",
        "transformers HubertModel + Linear",
        ("Hugging Face folder, safetensors", "folder, pytorch_model.bin", "lone .safetensors"),
        taps=((9, False), (12, False), END, (9, True)),
        ids={"vec768l12": (12, False), "vec256l9": (9, True)},
    ),
    "hf-hubert-large": Case(
        "HuBERT large, conv bias",
        "transformers",
        "transformers HubertModel",
        ("Hugging Face folder, safetensors",),
        taps=_LARGE,
        gigabytes=6.0,
    ),
    "hf-wavlm": Case(
        "WavLM base+",
        "transformers",
        "transformers WavLMModel",
        ("Hugging Face folder, safetensors",),
        ids={"wavlmbase+": END},
    ),
    "whisper-tiny": _whisper("tiny", 2.0, "whisper-ppg-tiny"),
    "whisper-base": _whisper("base", 2.0, "whisper-ppg-base"),
    "whisper-small": _whisper("small", 3.0, "whisper-ppg-small"),
    "whisper-medium": _whisper("medium", 6.0, "whisper-ppg"),
    "whisper-large-v2": _whisper("large-v2", 10.0, "whisper-ppg-large"),
    "whisper-large-v3": _whisper("large-v3", 10.0, "whisper-ppg-large"),
    "whisper-real": Case(
        "Whisper tiny.en, the real weights",
        "whisper",
        "openai-whisper log_mel_spectrogram + AudioEncoder",
        ("OpenAI {dims, model_state_dict}, encoder half",),
        taps=(END,),
        ids={"whisper-ppg-tiny": END},
        gigabytes=2.0,
    ),
}

CLIPS = {
    # name -> file of the shared recordings, seconds
    "10 s": ("speech/vctk_p226/p226_023.flac", 10.0),
    "1.3 s": ("speech/ljspeech/LJ001-0001.flac", 1.3),
}
REAL_CLIPS = {
    "LJ001": ("speech/ljspeech/LJ001-0001.flac", 30.0),
    "it03": ("speech/gts_it_soprano_1/it03_Speech.flac", 30.0),
    "p226": ("speech/vctk_p226/p226_023.flac", 30.0),
}
"""Three speakers for the real weights."""
