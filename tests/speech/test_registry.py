"""The table of encoders is that of spec_encoders 1, plus three small Whispers."""

from __future__ import annotations

import dataclasses

import pytest

from svc.config import SPEECH_ENCODER_DIMS
from svc.pretrained import PRETRAINED
from svc.speech.registry import ENCODER_NAMES, ENCODERS

ORIGINAL = {  # id: default file, layer, projected, width
    "vec768l12": ("checkpoint_best_legacy_500.pt", 12, False, 768),
    "vec256l9": ("checkpoint_best_legacy_500.pt", 9, True, 256),
    "vec256l9-onnx": ("vec-256-layer-9.onnx", None, False, 256),
    "vec256l12-onnx": ("vec-256-layer-12.onnx", None, False, 256),
    "vec768l9-onnx": ("vec-768-layer-9.onnx", None, False, 768),
    "vec768l12-onnx": ("vec-768-layer-12.onnx", None, False, 768),
    "hubertsoft": ("hubert-soft-0d54a1f4.pt", 12, True, 256),
    "hubertsoft-onnx": ("hubert-soft.onnx", None, False, 256),
    "whisper-ppg": ("medium.pt", None, False, 1024),
    "whisper-ppg-large": ("large-v2.pt", None, False, 1280),
    "cnhubertlarge": ("chinese-hubert-large-fairseq-ckpt.pt", None, False, 1024),
    "dphubert": ("DPHuBERT-sp0.75.pth", None, False, 768),
    "wavlmbase+": ("WavLM-Base+.pt", None, False, 768),
}


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_original_ids(name: str) -> None:
    entry = ENCODERS[name]
    assert (entry.file.name, entry.layer, entry.project, entry.dim) == ORIGINAL[name]
    assert entry.padding == (40 if name == "hubertsoft" else 0)


def test_the_table_is_complete() -> None:
    assert set(ENCODER_NAMES) == set(SPEECH_ENCODER_DIMS)
    ours = set(ENCODER_NAMES) - set(ORIGINAL)
    assert ours == {"whisper-ppg-tiny", "whisper-ppg-base", "whisper-ppg-small"}
    for entry in ENCODERS.values():
        assert PRETRAINED[entry.file.name] is entry.file
        assert entry.family == (
            "onnx" if "onnx" in entry.name else "whisper" if "whisper" in entry.name else "wave"
        )
        assert (entry.kind is not None) == (entry.family == "wave")


def test_entries_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ENCODERS["vec768l12"].layer = 9  # type: ignore[misc]
