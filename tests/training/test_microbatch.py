"""A batch that goes through the nets in parts takes the step of the whole batch."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svc.checkpoint import load_checkpoint
from svc.errors import DeviceError
from svc.training.batches import Batch
from svc.training.diffusion_step import DiffusionLearner
from svc.training.microbatch import MicroBatches, cut, is_out_of_memory, parts_of
from svc.training.options import TrainOptions
from svc.training.ranks import Shares
from svc.training.step import Adversaries
from svc.training.synthesizer import train
from svc.vocoder.generator import Generator

CPU = torch.device("cpu")
TOLERANCE = 1e-9  # of the largest gradient of a tensor, in float64 ...
ZERO = 1e-6  # ... or of this: the bias of keys has none but rounding


# ---- parts ---------------------------------------------------------------------------------------


def test_parts_cover_a_batch_evenly() -> None:
    for clips in range(1, 20):
        for size in range(1, 25):
            parts = list(parts_of(clips, size))
            lengths = [len(range(clips)[part]) for part in parts]
            assert [n for part in parts for n in range(clips)[part]] == list(range(clips))
            assert max(lengths) <= size
            assert max(lengths) - min(lengths) <= 1
            assert len(parts) == -(-clips // size)


def test_cut(batch: Batch) -> None:
    part = cut(dataclasses.replace(batch, shares=Shares(2.0, 3.0, 4.0)), slice(1, 3))
    assert len(part) == 2
    assert torch.equal(part.wav, batch.wav[1:])
    assert part.names == batch.names[1:]
    assert part.numbers == batch.numbers[1:]
    assert part.shares == Shares(2.0, 3.0, 4.0)
    assert part.volume is None


# ---- the step of the whole batch -----------------------------------------------------------------


def double(batch: Any) -> Any:
    changed = {
        field.name: value.double()
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor) and value.is_floating_point()
    }
    return dataclasses.replace(batch, **changed)


@pytest.fixture(params=["small_voice", "small_vocoder", "small_diffusion"])
def small(request: pytest.FixtureRequest) -> tuple[Callable[[], Any], Any]:
    """A maker of learners in float64, always the same, and a batch of clips."""
    return in_double(*request.getfixturevalue(request.param))


@pytest.fixture
def voice(small_voice: tuple[Callable[[], Adversaries], Batch]) -> tuple[Callable[[], Any], Any]:
    """The same of a voice."""
    return in_double(*small_voice)


def in_double(make: Callable[[], Any], batch: Any) -> tuple[Callable[[], Any], Any]:
    def wide() -> Any:
        learner = make()
        for module in learner.modules:
            module.double()
        return learner

    return wide, double(batch)


def gradients(learner: Any) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": parameter.grad.clone()
        for number, module in enumerate(learner.modules)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def losses_of(detail: Any) -> dict[str, float]:
    if hasattr(detail, "losses"):
        return {name: float(value) for name, value in detail.losses.items()}
    return {"loss": float(detail.loss)}


def assert_close(one: Tensor, two: Tensor, name: str) -> None:
    difference = float((one - two).abs().max())
    assert difference <= TOLERANCE * max(float(one.abs().max()), ZERO), name


def assert_same_step(one: tuple[Any, Any], two: tuple[Any, Any]) -> None:
    """Compare gradients, losses and gradient norms of two learners after a step."""
    (first, detail), (second, other) = one, two
    whole, parted = gradients(first), gradients(second)
    assert whole.keys() == parted.keys()
    for name, gradient in whole.items():
        assert_close(gradient, parted[name], name)
    assert losses_of(other) == pytest.approx(losses_of(detail), rel=TOLERANCE)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_gradients_of_parts_are_those_of_the_whole(small: Any, size: int) -> None:
    """Clips of different lengths, so that the KL's frames and the other means weigh differently."""
    make, batch = small
    whole, parted = make(), make()
    parted.micro.limit = size
    details = [learner.step(batch, 3, detailed=True) for learner in (whole, parted)]
    assert_same_step((whole, details[0]), (parted, details[1]))
    if isinstance(batch, Batch):
        assert len(set(batch.lengths.tolist())) == 5
        # The gradients of the two nets are not nothing that happens to be equal.
        assert all(float(norm) > 1e-3 for norm in details[0].gradient_norms.values())


def test_parts_before_the_discriminator_joins(voice: Any) -> None:
    make, batch = voice
    learners = []
    for limit in (None, 2):
        nets = make()
        nets.train_config = dataclasses.replace(nets.train_config, gan_start_step=9)
        nets.micro.limit = limit
        learners.append((nets, nets.step(batch, 3, detailed=True)))
    assert_same_step(*learners)
    assert "disc" not in losses_of(learners[0][1])


def test_shares_of_a_larger_batch_weigh_the_parts(voice: Any) -> None:
    """A batch of two processes: half of the clips each, averaged, are the whole batch."""
    make, batch = voice
    whole = make()
    detail = whole.step(batch, 3, detailed=True)
    assert detail is not None
    clips, frames = len(batch), int(batch.lengths.sum())
    total: dict[str, Tensor] = {}
    for where in (slice(0, 2), slice(2, 5)):
        part = cut(batch, where)
        n = len(part) / clips
        shares = Shares(2 * n, 2 * int(part.lengths.sum()) / frames, 2 * n)
        nets = make()
        nets.micro.limit = 2
        # Only what the generator learns without a judge: the discriminator of a process has learnt
        # from half of the batch here, as nobody averages.
        nets.train_config = dataclasses.replace(nets.train_config, gan_start_step=9)
        nets.step(dataclasses.replace(part, shares=shares), 3, detailed=False)
        for name, gradient in gradients(nets).items():
            total[name] = total.get(name, 0) + gradient / 2
    alone = make()
    alone.train_config = dataclasses.replace(alone.train_config, gan_start_step=9)
    alone.step(batch, 3, detailed=False)
    for name, gradient in gradients(alone).items():
        assert_close(gradient, total[name], name)


def dropped(module: nn.Module, given: Any, made: Tensor) -> Tensor:
    """Dropout where the discriminator hears it: the nets have theirs elsewhere."""
    return nn.functional.dropout(made, 0.5)


def test_dropout_is_the_same_for_both_nets(make_voices: Callable[..., Any], batch: Batch) -> None:
    """What the discriminator has learnt to tell apart is what it is shown by the generator then."""
    nets = Adversaries(make_voices().config, CPU)
    nets.generator.dec.register_forward_hook(dropped)
    nets.micro.limit = 1
    heard: list[Tensor] = []
    nets.discriminator.register_forward_pre_hook(
        lambda module, given: heard.append(given[1].detach().clone())
    )
    nets.step(batch, 1, detailed=False)
    assert len(heard) == 6
    assert all(torch.equal(heard[index], heard[index + 3]) for index in range(3))
    assert not torch.equal(heard[0], heard[1])
    after = torch.get_rng_state()
    nets.step(batch, 2, detailed=False)
    assert not torch.equal(torch.get_rng_state(), after)  # the next step draws other masks


# ---- memory that runs out ------------------------------------------------------------------------


class Full:
    """A device that holds the work of so many clips: beyond that a net raises, half-way through."""

    def __init__(self, module: nn.Module, clips: int, *, calls: Sequence[int] = ()) -> None:
        self.clips, self.calls, self.count = clips, calls, 0
        self.kept: list[weakref.ref[Tensor]] = []  # what attempts that failed have made
        self.lost = 0
        module.register_forward_hook(self)

    def __call__(self, module: nn.Module, given: Any, made: Any) -> None:
        assert all(kept() is None for kept in self.kept), "a failed attempt is still in memory"
        tensor = getattr(made, "wav", made)
        while not isinstance(tensor, Tensor):
            tensor = tensor[0]
        self.count += 1
        if tensor.shape[0] > self.clips and (not self.calls or self.count in self.calls):
            self.kept.append(weakref.ref(tensor))
            self.lost += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")


def test_running_out_of_memory_halves_and_goes_on(small: Any) -> None:
    """The step is that of nets that went in parts from the start; what failed is given back."""
    make, batch = small
    reference, learner = make(), make()
    gc.disable()  # nothing but reference counts and the halving itself may free the attempt
    try:
        diffusion = isinstance(learner, DiffusionLearner)  # its net is called through `loss`
        net = learner.model.decoder.denoise_fn if diffusion else learner.generator
        full = Full(net, 1)
        told: list[str] = []
        learner.micro.tell = told.append
        detail = learner.step(batch, 3, detailed=True)
    finally:
        gc.enable()
    assert learner.micro.limit == 1
    assert full.lost == len(told) == 2  # 5 or 4 clips, then 2
    assert all("\n" not in text for text in told)
    assert f"the batch stays {len(batch)}" in told[0]
    reference.micro.limit = 1
    assert_same_step((reference, reference.step(batch, 3, detailed=True)), (learner, detail))
    # Remembered: the next step fails no more.
    learner.step(batch, 4, detailed=False)
    assert full.lost == 2


def test_running_out_in_the_generators_step_leaves_the_discriminator_its_step(voice: Any) -> None:
    """The generator's graph, made for both nets, is given back; the discriminator steps once."""
    make, batch = voice
    reference, nets = make(), make()
    # The second call of the discriminator is the one in the generator's step.
    full = Full(nets.discriminator, 3, calls=(2,))
    nets.micro.tell = lambda text: None
    detail = nets.step(batch, 3, detailed=True)
    assert full.lost == 1
    assert nets.micro.limit == 2
    assert_same_step((reference, reference.step(batch, 3, detailed=True)), (nets, detail))
    steps = {float(state["step"]) for state in nets.optim_d.state.values()}
    assert steps == {1.0}
    assert all(parameter.requires_grad for parameter in nets.discriminator.parameters())


def test_random_numbers_of_a_failed_attempt_are_drawn_again(
    make_voices: Callable[..., Any], batch: Batch
) -> None:
    config, states = make_voices().config, []
    for limit in (None, 1):
        torch.manual_seed(5)
        nets = Adversaries(config, CPU)
        nets.micro.limit, nets.micro.tell = limit, lambda text: None
        nets.generator.dec.register_forward_hook(dropped)
        if limit is None:
            Full(nets.generator.dec, 2)
        nets.step(batch, 1, detailed=False)
        states.append((torch.get_rng_state(), nets.micro.limit, gradients(nets)))
    assert states[0][1] == states[1][1] == 1
    assert torch.equal(states[0][0], states[1][0])
    for name, gradient in states[0][2].items():
        assert torch.equal(gradient, states[1][2][name]), name


@pytest.mark.usefixtures("no_pictures")
def test_a_run_remembers_how_much_fits(
    make_voices: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told once; a resume begins with it; and the run is the one that knew it from the start."""
    voices = make_voices(model={"p_dropout": 0.0})
    forward, tries = Generator.forward, []

    def crowded(self: Generator, x: Tensor, *args: Any, **options: Any) -> Tensor:
        if self.training and len(x) > 1:
            tries.append(len(x))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, x, *args, **options)

    monkeypatch.setattr(Generator, "forward", crowded)
    options = {"config": voices.config_path, "device": "cpu", "eval_interval": 100}
    for steps in (2, 4):
        train(TrainOptions(model="m", max_steps=steps, **options))
    assert tries == [2]
    log = Path("logs/m/train.log").read_text()
    assert log.count("cpu ran out of memory with 2 clips at a time: from now on 1") == 1
    assert log.count("1 clips at a time go through the nets, as before") == 1
    monkeypatch.setattr(MicroBatches, "size", lambda self, clips: 1)
    train(TrainOptions(model="known", max_steps=4, **options))
    assert tries == [2]
    one, two = (load_checkpoint(Path(f"logs/{name}/G_4.pth")) for name in ("m", "known"))
    assert all(map(torch.equal, one["model"].values(), two["model"].values()))
    assert one["svc"]["trouble"]["micro_batch"] == 1


def test_one_clip_that_does_not_fit_is_one_line(voice: Any) -> None:
    make, batch = voice
    nets = make()
    Full(nets.generator, 0)
    nets.micro.tell = lambda text: None
    with pytest.raises(DeviceError, match=r"cpu ran out of memory with one clip") as caught:
        nets.step(batch, 3, detailed=False)
    assert "\n" not in str(caught.value)


def test_other_errors_pass() -> None:
    micro = MicroBatches(CPU)

    def broken(parts: list[slice]) -> None:
        raise RuntimeError("shape '[2]' is invalid")

    with pytest.raises(RuntimeError, match="is invalid"):
        micro.run(4, broken, lambda: None)
    assert micro.limit is None


def test_what_counts_as_out_of_memory() -> None:
    for error in (
        torch.OutOfMemoryError("x"),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ):
        assert is_out_of_memory(error)
    for other in (RuntimeError("size mismatch"), ValueError("out of memory"), KeyError("x")):
        assert not is_out_of_memory(other)


def test_small_work_is_done_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    micro, calls, cleared = MicroBatches(CPU), [], []
    monkeypatch.setattr(MicroBatches, "clear", lambda self: cleared.append(1))

    def work(failures: int) -> Callable[[], int]:
        def do() -> int:
            calls.append(1)
            if len(calls) <= failures:
                raise torch.OutOfMemoryError("full")
            return len(calls)

        return do

    assert micro.spare(work(1)) == 2
    assert cleared == [1]
    calls.clear()
    with pytest.raises(torch.OutOfMemoryError):
        micro.spare(work(2))


def test_a_resume_begins_with_what_was_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is on a device with more memory, which may hold more."""
    here, again = MicroBatches(CPU), MicroBatches(CPU)
    assert here.state_dict() == {}
    here.limit = 3
    again.load_state_dict(here.state_dict())
    assert again.limit == 3
    assert [again.size(clips) for clips in (1, 3, 8)] == [1, 3, 3]
    for memory, expected in ((10, 3), (9, 3), (20, None)):
        monkeypatch.setattr(MicroBatches, "_memory", lambda self, memory=memory: memory)
        other = MicroBatches(CPU)
        other.load_state_dict({"micro_batch": 3, "memory": 10})
        assert other.limit == expected
