"""The front end against torch's own convolutions and norms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svc.speech.frontend import (
    CONV_KERNELS,
    CONV_STRIDES,
    ConvLayer,
    FrontEnd,
    WaveMoments,
    frame_count,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def front_end(*, layer_norm: bool, bias: bool = False, channels: int = 12) -> FrontEnd:
    front = FrontEnd((channels,) * 6 + (channels + 4,), bias=bias, layer_norm=layer_norm)
    generator = torch.Generator().manual_seed(5)
    for parameter in front.requires_grad_(False).parameters():
        parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    return front


def plain(front: FrontEnd, wav: Tensor) -> Tensor:
    """The same by torch's layers: (B, T) -> (B, S, C)."""
    x = wav[:, None]
    for layer in front:
        assert isinstance(layer, ConvLayer)
        x = F.conv1d(x, layer.conv.weight, layer.conv.bias, stride=layer.conv.stride)
        if isinstance(layer.norm, nn.LayerNorm):
            x = layer.norm(x.transpose(1, 2)).transpose(1, 2)
        elif layer.norm is not None:
            x = layer.norm(x)
        x = F.gelu(x)
    return x.transpose(1, 2)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("samples", [400, 401, 719, 720, 1039, 1040, 5003, 16000])
def test_equals_torchs_layers(layer_norm: bool, bias: bool, samples: int) -> None:
    front = front_end(layer_norm=layer_norm, bias=bias).double()
    wav = noise(2, samples).double()
    moments = None if layer_norm else WaveMoments.of(list(wav))
    ours = front(wav, moments)
    assert ours.shape == (2, frame_count(samples), 16)
    torch.testing.assert_close(ours, plain(front, wav), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_single_precision_stays_within_rounding(layer_norm: bool) -> None:
    front = front_end(layer_norm=layer_norm, channels=64)
    wav = noise(1, 32000)
    exact = plain(front_end(layer_norm=layer_norm, channels=64).double(), wav.double())
    moments = None if layer_norm else WaveMoments.of(list(wav))
    error = (front(wav, moments).double() - exact).abs().max()
    assert error <= 1e-6 * exact.abs().max()


def test_a_padded_item_equals_the_item_alone() -> None:
    front = front_end(layer_norm=False).double()
    short, long = noise(3000).double(), noise(9000, seed=1).double()
    batch = torch.stack([long, F.pad(short, (0, 6000))])
    together = front(batch, WaveMoments.of([long, short]))
    alone = front(short[None], WaveMoments.of([short]))
    torch.testing.assert_close(together[1, : alone.shape[1]], alone[0], atol=1e-12, rtol=0)


def test_moments_are_those_of_all_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the block size in which they are summed."""
    wav = noise(10_007) + 0.5  # an offset: the variance must not suffer from it
    stretches = wav.double().unfold(0, CONV_KERNELS[0], CONV_STRIDES[0])
    for block in (1 << 18, 100):
        monkeypatch.setattr("svc.speech.frontend._BLOCK", block)
        moments = WaveMoments.of([wav])
        torch.testing.assert_close(moments.mean[0], stretches.mean(0))
        expected = torch.einsum("fk,fl->kl", stretches, stretches) / len(stretches)
        torch.testing.assert_close(moments.second[0], expected)


@pytest.mark.parametrize("level", [0.0, 1e-6, 1.0, 1e4])
def test_any_level(level: float) -> None:
    front = front_end(layer_norm=False)
    wav = level * noise(1, 4000) + level
    out = front(wav, WaveMoments.of(list(wav)))
    assert torch.isfinite(out).all()
    expected = plain(front.double(), wav.double())
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_windows_of_a_wave_share_its_statistics() -> None:
    front = front_end(layer_norm=False).double()
    wav = torch.cat([noise(8000), 0.05 * noise(8000, seed=1)]).double()
    whole = front(wav[None], WaveMoments.of([wav]))[0]
    begin = 20
    window = wav[begin * 320 :]
    shared = front(window[None], WaveMoments.of([wav]))[0]
    torch.testing.assert_close(shared, whole[begin:], atol=1e-12, rtol=0)
    own = front(window[None], WaveMoments.of([window]))[0]
    assert (own - whole[begin:]).abs().max() > 0.01


def test_frame_k_hears_samples_from_320_k() -> None:
    """Changing samples outside [320k, 320k + 400) leaves frame k alone."""
    front = front_end(layer_norm=True)
    wav = noise(1, 4000)
    changed = wav.clone()
    changed[:, 320 * 5 + 400 :] += 1.0
    changed[:, : 320 * 5] += 1.0
    same = (front(wav, None) - front(changed, None))[0].abs().amax(1) < 1e-6
    assert same.tolist() == [index == 5 for index in range(len(same))]


def test_moments_are_required_where_time_is_normalised() -> None:
    with pytest.raises(ValueError, match="moments"):
        front_end(layer_norm=False)(noise(1, 400), None)
