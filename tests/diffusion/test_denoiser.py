from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.diffusion import Denoiser, Unit2Mel


def make() -> Denoiser:
    torch.manual_seed(0)
    net = Denoiser(6, n_layers=3, n_chans=16, n_hidden=12)
    torch.nn.init.normal_(net.output_projection.weight, std=0.1)
    return net


@pytest.mark.parametrize("time", ["0", "37.25", "999"])
def test_golden(reference: Unit2Mel, arrays: dict[str, Any], time: str) -> None:
    x, condition = (torch.from_numpy(arrays[name]).double() for name in ("wn_x", "cond"))
    found = reference.decoder.denoise_fn(x, torch.tensor([float(time)]), condition)
    assert np.abs(found.numpy() - arrays[f"wn_out_t{time}"]).max() <= 1e-6


def test_prepared_equals_plain() -> None:
    net = make().double()
    x, condition = torch.randn(2, 1, 6, 9).double(), torch.randn(2, 12, 9).double()
    times = [99.0, 37.25, 0.0]
    prepared = net.prepare(condition, times)
    for index, time in enumerate(times):
        plain = net(x, torch.tensor([time, time]), condition)
        torch.testing.assert_close(prepared(x, index), plain, rtol=1e-12, atol=1e-12)
        assert plain.abs().max() > 0.01


def test_walls_keep_chunks_apart() -> None:
    """What is right of a wall changes nothing left of it, and both sides are what they are alone."""
    net = make().double()
    x, condition = torch.randn(1, 1, 6, 12).double(), torch.randn(1, 12, 12).double()
    walled = net.prepare(condition, [50.0], torch.tensor([7]))(x, 0)
    for part in (slice(0, 7), slice(8, 12)):
        alone = net.prepare(condition[..., part], [50.0])(x[..., part], 0)
        torch.testing.assert_close(walled[..., part], alone, rtol=1e-12, atol=1e-12)
    open_ = net.prepare(condition, [50.0])(x, 0)
    assert (open_ - walled)[..., 6].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float32, 100), (torch.bfloat16, 35), (torch.float16, 50)]
)
def test_settled_denoisers_tell_the_same_noise(dtype: torch.dtype, least: float) -> None:
    """Signal over deviation in dB; measured 130, 47 and 65."""
    net = make()
    x, condition = torch.randn(1, 1, 6, 60), torch.randn(1, 12, 60)
    with torch.no_grad():
        plain = net(x, torch.tensor([20.0]), condition)
    net.settle(dtype)
    assert net.layers[0].dilated_conv.weight.dtype == dtype
    assert net.mlp[0].weight.dtype == net.skip_projection.weight.dtype == torch.float32
    found = net.prepare(condition, [20.0])(x, 0)
    assert found.dtype == torch.float32
    assert float(10 * torch.log10(plain.var() / (found - plain).var())) > least


def test_settled_weights_are_not_copied_for_each_chunk() -> None:
    net = make().requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.settle(torch.float32)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name])
    taps = net.prepare(torch.randn(1, 12, 5), [3.0])._layers[0].taps
    assert taps.data_ptr() == net.layers[0].dilated_conv.weight.data_ptr()


def test_items_of_a_batch_have_times_of_their_own() -> None:
    net = make().double()
    x, condition = torch.randn(2, 1, 6, 9).double(), torch.randn(2, 12, 9).double()
    both = net(x, torch.tensor([3.0, 70.5]), condition)
    for i, time in enumerate((3.0, 70.5)):
        alone = net(x[i : i + 1], torch.tensor([time]), condition[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], alone)
    assert not torch.allclose(both[1:], net(x[1:], torch.tensor([3.0]), condition[1:]))


def test_times_are_told_by_sines_and_cosines() -> None:
    """The embedding before its two linear layers, written out (spec_diffusion 3)."""
    net = Denoiser(6, n_layers=1, n_chans=8, n_hidden=12)
    seen: list[Tensor] = []
    net.mlp.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    net.embed_times(torch.tensor([0, 12]))
    omega = np.exp(-np.arange(4) * np.log(10000) / 3)
    expected = [[*np.sin(t * omega), *np.cos(t * omega)] for t in (0, 12)]
    np.testing.assert_allclose(seen[0].numpy(), expected, atol=1e-5)


def test_each_frame_sees_as_far_as_its_layers_reach() -> None:
    net = make()
    x, condition = torch.randn(1, 1, 6, 15), torch.randn(1, 12, 15)
    other = x.clone()
    other[..., 7] += 1
    with torch.no_grad():
        moved = net(x, torch.tensor([5]), condition) != net(other, torch.tensor([5]), condition)
    assert moved[0, 0].any(dim=0).nonzero().flatten().tolist() == [4, 5, 6, 7, 8, 9, 10]


def test_a_fresh_net_tells_nothing_and_can_learn() -> None:
    net = Denoiser(6, n_layers=2, n_chans=16, n_hidden=12)
    x, condition = torch.randn(1, 1, 6, 9), torch.randn(1, 12, 9)
    told = net(x, torch.tensor([5]), condition)
    # Only the bias of the last convolution is left.
    assert torch.equal(told, net.output_projection.bias[None, None, :, None].expand_as(told))
    torch.nn.init.normal_(net.output_projection.weight)
    net(x, torch.tensor([5]), condition).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
