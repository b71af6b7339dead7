"""The net against torch's own Transformer layers, and what encoding promises for any input."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from svc.errors import AudioError
from svc.speech.chunks import CONTEXT_FRAMES, plan_windows
from svc.speech.hubert import WINDOW_FRAMES, HubertEncoder, load_hubert
from svc.speech.wav2vec2 import TransformerLayer, Wav2Vec2, Wav2Vec2Config


@pytest.fixture
def encoder(
    make_fairseq_tensors: Callable[..., dict[str, Tensor]], save_fairseq: Callable[..., Path]
) -> HubertEncoder:
    return HubertEncoder(load_hubert(save_fairseq(make_fairseq_tensors())), name="x", layer=2)


def noise(n: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_layer_is_torchs_transformer_layer(pre_norm: bool) -> None:
    config = Wav2Vec2Config((8,) * 7, False, pre_norm, 32, 4, 48, 1, pre_norm, 16, 2, None)
    ours = TransformerLayer(config)
    theirs = nn.TransformerEncoderLayer(
        32, 4, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=pre_norm
    )
    attention = ours.attention
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
        theirs.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        for mine, other in (
            (attention.out, theirs.self_attn.out_proj),
            (ours.fc1, theirs.linear1),
            (ours.fc2, theirs.linear2),
            (ours.attention_norm, theirs.norm1),
            (ours.ffn_norm, theirs.norm2),
        ):
            other.load_state_dict(mine.state_dict())
        x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-5)


def test_attention_from_the_first_positions_only() -> None:
    config = Wav2Vec2Config((8,) * 7, False, False, 32, 4, 48, 1, False, 16, 2, None)
    attention = TransformerLayer(config).attention
    x = torch.randn(1, 20, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention(x, 7), attention(x)[:, :7])


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(0, 1), (1, 1), (399, 1), (400, 1), (719, 1), (720, 2), (16000, 49)],
)
def test_frame_counts(encoder: HubertEncoder, samples: int, frames: int) -> None:
    """Formula A of spec_encoders 1; shorter input is padded with zeros instead of crashing."""
    wav = noise(samples)
    units = encoder.encode(wav)
    assert units.shape == (1, encoder.dim, frames)
    assert units.dtype == torch.float32
    assert torch.isfinite(units).all()
    assert not units.requires_grad
    if samples < 400:
        assert torch.equal(units, encoder.encode(torch.cat([wav, torch.zeros(400 - samples)])))


def test_frame_k_hears_samples_from_320_k(encoder: HubertEncoder) -> None:
    """The conv front end of a layer-norm net: changing samples outside [320k, 320k + 400) leaves
    frame k alone.
    """
    config = Wav2Vec2Config((8,) * 7, False, True, 16, 2, 8, 1, True, 16, 2, None)
    net = Wav2Vec2(config).requires_grad_(False)
    wav = noise(4000)
    changed = wav.clone()
    changed[320 * 5 + 400 :] += 1.0
    changed[: 320 * 5] += 1.0

    def front(wave: Tensor) -> Tensor:
        x = wave[None, None]
        for conv in net.frontend:
            x = conv(x)
        return x[0]

    same = (front(wav) - front(changed)).abs().amax(0) < 1e-6
    assert same.tolist() == [index == 5 for index in range(len(same))]


def test_silence_loudness_and_strides(encoder: HubertEncoder) -> None:
    assert torch.isfinite(encoder.encode(torch.zeros(16000))).all()
    assert torch.isfinite(encoder.encode(1e4 * noise(16000))).all()
    both = torch.stack([noise(8000), noise(8000, 1)], dim=1)  # interleaved: a view with stride 2
    assert torch.equal(encoder.encode(both[:, 0]), encoder.encode(noise(8000)))
    assert torch.equal(encoder.encode(noise(8000).double()), encoder.encode(noise(8000)))


def test_what_is_no_wave_is_refused(encoder: HubertEncoder) -> None:
    for value in (float("nan"), float("inf")):
        wav = noise(1000)
        wav[[3, 77]] = value
        with pytest.raises(AudioError, match="2 samples of 1000"):
            encoder.encode(wav)
    with pytest.raises(ValueError, match="float wave"):
        encoder.encode(noise(1000)[None])
    with pytest.raises(ValueError, match="float wave"):
        encoder.encode(torch.ones(1000, dtype=torch.int16))


@pytest.mark.parametrize("n_frames", [1, 1499, 1500, 1501, 2798, 2799, 2800, 3499, 10000, 100_003])
def test_windows_tile_the_frames_with_context(n_frames: int) -> None:
    windows = plan_windows(n_frames, WINDOW_FRAMES)
    assert windows[0].start == windows[0].keep_start == 0
    assert windows[-1].end == windows[-1].keep_end == n_frames
    assert {part.end - part.start for part in windows} == {min(n_frames, WINDOW_FRAMES)}
    for left, right in pairwise(windows):
        assert left.keep_end == right.keep_start
        assert left.end - left.keep_end >= CONTEXT_FRAMES
        assert right.keep_start - right.start >= CONTEXT_FRAMES
    assert all(part.start <= part.keep_start < part.keep_end <= part.end for part in windows)
    # No more windows than needed.
    assert (len(windows) - 2) * (WINDOW_FRAMES - 2 * CONTEXT_FRAMES) + WINDOW_FRAMES < max(
        n_frames, WINDOW_FRAMES + 1
    )


def test_up_to_thirty_seconds_is_one_pass(encoder: HubertEncoder) -> None:
    wav = noise(480_079)  # the longest wave of 1499 frames
    with torch.no_grad():
        whole = encoder._net(wav[None], 2).transpose(1, 2)
    assert torch.equal(encoder.encode(wav), whole)


@pytest.mark.parametrize(("kind", "limit"), [("base", 0.15), ("large", 0.01)])
def test_seventy_seconds_are_close_to_one_pass(
    golden: Path, long_speech: Tensor, kind: str, limit: float
) -> None:
    """Relative RMS difference between windows and one pass over 70 s of real speech.

    Measured 0.03-0.07 (base: GroupNorm takes its statistics from a window, not the whole) and
    0.001-0.003 (large).
    """
    encoder = HubertEncoder(
        load_hubert(golden / f"golden_enc_tiny_fairseq_hubert_{kind}.pt"), name="x", layer=3
    )
    units = encoder.encode(long_speech)[0]
    with torch.no_grad():
        whole = encoder._net(long_speech[None], 3)[0].T
    assert units.shape == whole.shape == (128, (len(long_speech) - 400) // 320 + 1)
    assert (units - whole).norm() < limit * whole.norm()
    # No frame is displaced: each is closer to its own counterpart than to the neighbours'.
    own = (units - whole).norm(dim=0)[1:-1]
    assert (own < (units - whole.roll(1, 1)).norm(dim=0)[1:-1]).float().mean() > 0.99
