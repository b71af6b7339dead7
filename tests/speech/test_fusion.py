"""Two encoders as one."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.audio.frames import expand_units
from svc.errors import AudioError
from svc.speech import build_speech_encoder
from svc.speech.fusion import FusedEncoder


class Stub:
    """Units that tell the encoder, the channel and the frame they are from."""

    def __init__(self, name: str, dim: int, field: int, usual_seconds: float = 30.0) -> None:
        self.name, self.dim, self.field = name, dim, field
        self.usual_seconds, self.device = usual_seconds, torch.device("cpu")
        self.seen: list[weakref.ref[Tensor]] = []
        self.batches = 0

    def encode(self, wav16k: Tensor) -> Tensor:
        frames = max(1, (len(wav16k) - self.field) // 320 + 1)
        rows = torch.arange(self.dim)[:, None] * 1000.0 + torch.arange(frames)
        units = (rows + 1e5 * len(self.name))[None]
        self.seen.append(weakref.ref(units))
        return units

    def encode_batch(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        self.batches += 1
        return [self.encode(wav) for wav in wavs]


@pytest.mark.parametrize("samples", [0, 1, 320, 399, 400, 640, 719, 720, 16000, 16079, 16080])
@pytest.mark.parametrize("fields", [(400, 320), (320, 400), (400, 400), (320, 320)])
def test_units_side_by_side(samples: int, fields: tuple[int, int]) -> None:
    a, b = Stub("a", 3, fields[0]), Stub("bb", 2, fields[1])
    wav = torch.zeros(samples)
    units = FusedEncoder([a, b]).encode(wav)
    parts = [a.encode(wav), b.encode(wav)]
    frames = max(part.shape[-1] for part in parts)
    expected = torch.cat([expand_units(part, frames, "left") for part in parts], dim=1)
    assert torch.equal(units, expected)
    assert units.dtype == torch.float32


def test_a_batch_is_one_call_per_part() -> None:
    a, b = Stub("a", 3, 400), Stub("bb", 2, 320)
    fused = FusedEncoder([a, b])
    wavs = [torch.zeros(n) for n in (5000, 0, 640, 16000)]
    together = fused.encode_batch(wavs)
    assert (a.batches, b.batches) == (1, 1)
    for wav, units in zip(wavs, together):
        assert torch.equal(units, fused.encode(wav))
    assert fused.encode_batch([]) == []


def test_one_part_is_held_at_a_time() -> None:
    """When the second part begins, the first one's units are gone."""
    a, b = Stub("a", 3, 400), Stub("bb", 2, 320)

    class Late(Stub):
        def encode(self, wav16k: Tensor) -> Tensor:
            assert a.seen
            assert all(units() is None for units in a.seen)
            return super().encode(wav16k)

    late = Late("bb", 2, 320)
    fused = FusedEncoder([a, late])
    fused.encode(torch.zeros(16000))
    a.seen.clear()
    fused.encode_batch([torch.zeros(16000), torch.zeros(800)])
    assert len(late.seen) == 3
    del b


def test_what_a_fusion_says_of_itself() -> None:
    fused = FusedEncoder([Stub("wavlmbase+", 768, 400), Stub("whisper-ppg-tiny", 384, 320, 15.0)])
    assert fused.name == "wavlmbase++whisper-ppg-tiny"
    assert (fused.dim, fused.usual_seconds) == (1152, 15.0)
    assert fused.device == torch.device("cpu")


def test_parts_must_agree() -> None:
    other: Any = Stub("b", 2, 320)
    other.device = torch.device("meta")
    with pytest.raises(ValueError, match="cannot fuse"):
        FusedEncoder([Stub("a", 3, 400), other])
    with pytest.raises(ValueError, match="cannot fuse"):
        FusedEncoder([Stub("a", 3, 400)])


def test_a_real_fusion(speech: Tensor, tmp_path: Any, make_wave_file: Any) -> None:
    """ContentVec-like and Whisper tiny: each part is what it is alone."""
    path = make_wave_file("fairseq", dim=768, ffn=8, layers=12, conv=8, projection=256)
    name = "vec256l9+whisper-ppg-tiny"
    fused = build_speech_encoder(name, path={"vec256l9": path}, pretrain_dir=tmp_path)
    assert (fused.name, fused.dim) == (name, 640)
    wav = speech[: 16000 + 20]  # 49 frames of the one, 50 of the other
    units = fused.encode(wav)
    assert units.shape == (1, 640, 50)
    vec = build_speech_encoder("vec256l9", path=path).encode(wav)
    assert torch.equal(units[:, :256], expand_units(vec, 50, "left"))
    ppg = build_speech_encoder("whisper-ppg-tiny", pretrain_dir=tmp_path).encode(wav)
    assert torch.equal(units[:, 256:], ppg)
    with pytest.raises(AudioError, match="not numbers"):
        fused.encode(torch.full((4000,), torch.nan))
