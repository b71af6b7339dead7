"""What a step leaves to the device: it waits for no number, and what needs float32 gets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from svc.training.batches import Tensors
from svc.training.numerics import make_scaler
from svc.training.step import Adversaries

aten = torch.ops.aten
HALF = (torch.bfloat16, torch.float16)


@pytest.fixture(params=["small_voice", "small_vocoder", "small_diffusion"])
def small(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


class NoWaiting(TorchDispatchMode):
    """Fails where a CUDA device would be waited for: numbers, and sizes that depend on numbers."""

    WAIT = (
        aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2,
        aten.unique_dim, aten.unique_consecutive, aten.repeat_interleave, aten.is_nonzero,
    )  # fmt: skip

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert function.overloadpacket not in self.WAIT, f"{function} waits for the device"
        if function.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            kinds = [index.dtype for index in args[1] if index is not None]
            assert torch.bool not in kinds, f"{function} with a mask waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "waits",
    [float, bool, int, Tensor.item, lambda x: x.reshape(1)[x.reshape(1) > 0], torch.nonzero],
)
def test_what_waits_is_seen(waits: Callable[[Tensor], Any]) -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        waits(torch.ones(()))


@pytest.mark.parametrize("limit", [None, 2])
def test_no_step_waits_for_the_device(
    small: Any, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the moment the batch is on its way; detailed steps read no more than others."""
    make, batch = small
    learner = make()
    learner.micro.limit = limit
    away, to = [], Tensors.to
    monkeypatch.setattr(Tensors, "to", lambda self, device: (away.append(1), to(self, device))[1])

    def guarded(name: str) -> None:
        plain = getattr(Tensor, name)

        def read(tensor: Tensor, *args: Any, **options: Any) -> Any:
            assert not away, f"{name} waits for the device"
            return plain(tensor, *args, **options)

        monkeypatch.setattr(Tensor, name, read)

    for name in ("tolist", "numpy", "cpu"):
        guarded(name)
    with NoWaiting():
        for step in (1, 2, 3):
            learner.step(batch, step, detailed=step == 2)
            assert away
            away.clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_step_waits_for_a_real_device(small_voice: Any) -> None:
    """The same, asked of CUDA itself; the first steps set things up."""
    make, batch = small_voice
    nets, device = make(), torch.device("cuda")
    nets = Adversaries(
        nets.config, device, generator=nets.generator, discriminator=nets.discriminator
    )
    pinned = batch.pin_memory()
    for step in (1, 2):
        nets.step(pinned, step, detailed=False)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in (3, 4, 5):
            nets.step(pinned, step, detailed=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not any(seen.bad for seen in nets.guard.drain())


class Kinds(TorchDispatchMode):
    """Notes the kinds of numbers that operations get while a step is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kinds = {arg.dtype for arg in args if isinstance(arg, Tensor)}
        self.seen.setdefault(function.overloadpacket.__name__, set()).update(kinds)
        return function(*args, **(kwargs or {}))


def test_under_autocast_stft_source_and_losses_are_float32(small_voice: Any) -> None:
    """Convolutions are not: or there would be no autocast."""
    make, batch = small_voice
    nets = make()
    nets.dtype = torch.bfloat16
    with Kinds() as kinds:
        detail = nets.step(batch, 1, detailed=True)
    seen = kinds.seen
    assert torch.bfloat16 in seen["convolution"]
    # _fft_r2c: mels; sin, remainder, cumsum: the source's phase; mean, mse_loss and exp: losses.
    for name in ("_fft_r2c", "sin", "remainder", "cumsum", "mean", "mse_loss", "exp", "log"):
        assert seen[name], name
        assert not seen[name] & set(HALF), (name, seen[name])
    assert {value.dtype for value in detail.losses.values()} == {torch.float32}
    assert {value.dtype for value in detail.gradient_norms.values()} == {torch.float32}


def test_under_autocast_the_source_merges_in_float32(small_voice: Any) -> None:
    make, batch = small_voice
    nets = make()
    nets.dtype = torch.bfloat16
    made: list[Tensor] = []
    nets.generator.dec.m_source.register_forward_hook(lambda module, given, out: made.append(out))
    nets.step(batch, 1, detailed=False)
    assert [out.dtype for out in made] == [torch.float32]


def test_bfloat16_in_parts_is_bfloat16_at_once(small_voice: Any) -> None:
    """Within the rounding of bfloat16: losses to 1 %."""
    make, batch = small_voice
    losses = []
    for limit in (None, 2):
        nets = make()
        nets.dtype, nets.micro.limit = torch.bfloat16, limit
        detail = nets.step(batch, 1, detailed=True)
        losses.append({name: float(value) for name, value in detail.losses.items()})
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_a_loss_scaler_is_for_float16_alone(small_voice: Any) -> None:
    cpu = torch.device("cpu")
    assert not make_scaler(None, cpu).is_enabled()
    assert not make_scaler(torch.bfloat16, cpu).is_enabled()
    assert make_scaler(torch.float16, cpu).is_enabled()
    # What is amplified is taken back before the step: the same weights, up to rounding.
    make, clips = small_voice
    weights = []
    for scale in (None, 2.0**10):
        nets = make()
        if scale is not None:
            nets.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        nets.step(clips, 1, detailed=False)
        weights.append(torch.cat([p.detach().flatten() for p in nets.generator.parameters()]))
    assert torch.allclose(*weights, atol=1e-5)
