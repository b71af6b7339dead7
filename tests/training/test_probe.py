"""``--batch_size auto``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.checkpoint import load_checkpoint
from svc.cli.main import main
from svc.errors import ConfigError, DatasetError, DeviceError
from svc.training import diffusion, memory, probe, synthesizer, vocoder
from svc.training.memory import HostGauge, available
from svc.training.microbatch import MicroBatches
from svc.training.numerics import FiniteGuard
from svc.training.options import TrainOptions
from svc.training.probe import (
    find_batch_size,
    longest_clips,
    settle_batch_size,
    untouched,
    with_batch_size,
)
from svc.training.ranks import Ranks
from svc.training.step import Adversaries

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("no_pictures")


# ---- the search, on a device that is made up -----------------------------------------------------


class Machine:
    """Takes `seconds(n)` for n clips, uses `full(n)` of its memory, and holds `room` clips."""

    def __init__(
        self,
        seconds: Callable[[int], float],
        full: Callable[[int], float | None] = lambda n: None,
        room: int = 10**9,
    ) -> None:
        self.seconds, self._full, self.room = seconds, full, room
        self.now, self.last, self.tried = 0.0, 0, []
        self.device, self.modules, self.optimizers = CPU, (), ()
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.guard, self.micro, self.ranks = FiniteGuard(CPU), MicroBatches(CPU), Ranks.single()

    def step(self, batch: int, step: int, *, detailed: bool) -> None:
        assert self.micro.fixed
        assert not detailed
        if batch > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if batch != self.last:
            self.tried.append(batch)
        # The first step of a size is slow, and must not count.
        self.now += 50 * self.seconds(batch) if batch != self.last else self.seconds(batch)
        self.last = batch

    def full(self) -> float | None:
        return self._full(self.last)

    def search(self, most: int = 64, ranks: Ranks | None = None) -> tuple[int, str]:
        return find_batch_size(
            self, ranks or Ranks.single(), lambda n: n, most, gauge=self, clock=lambda: self.now
        )


def test_stops_where_clips_run_out() -> None:
    machine = Machine(lambda n: 1.0)
    size, told = machine.search(most=50)
    assert size == 32
    assert machine.tried == [1, 2, 4, 8, 16, 32]
    assert told.startswith("--batch_size auto: 32; 1: 1 clips/s, 2: 2 clips/s")
    assert told.endswith("there are 50 clips")
    assert not machine.micro.fixed


def test_stops_where_more_clips_are_not_faster() -> None:
    """1.05 is the limit: 4 clips are 4 % faster a clip than 2, and are taken all the same."""
    rates = {1: 1.0, 2: 1.5, 4: 1.56, 8: 9.9}
    machine = Machine(lambda n: n / rates[n])
    assert machine.search()[0] == 4
    assert machine.tried == [1, 2, 4]
    slower = Machine(lambda n: n / {1: 1.0, 2: 1.5, 4: 1.2}[n])
    size, told = slower.search()
    assert size == 2
    assert "4 are hardly faster than 2" in told


def test_stops_at_out_of_memory() -> None:
    machine = Machine(lambda n: 1.0, room=5)
    size, told = machine.search()
    assert (size, machine.tried) == (4, [1, 2, 4])
    assert "8 do not fit into memory" in told


def test_stops_at_85_percent_before_it_is_reached() -> None:
    """10 % for the nets and 5 % a clip: 16 clips would be 90 %, and are not even tried."""
    machine = Machine(lambda n: 1.0, full=lambda n: 0.10 + 0.05 * n)
    size, told = machine.search()
    assert (size, machine.tried) == (8, [1, 2, 4, 8])
    assert "16 would use more than 85% of the memory" in told
    assert "8: 8 clips/s (50% of the memory)" in told


def test_memory_that_grows_faster_than_expected_is_not_taken() -> None:
    machine = Machine(lambda n: 1.0, full=lambda n: {1: 0.1, 2: 0.11, 4: 0.9}[n])
    size, told = machine.search()
    assert (size, machine.tried) == (2, [1, 2, 4])
    assert "(90% of the memory), too much" in told


def test_one_clip_has_to_fit() -> None:
    with pytest.raises(DeviceError, match="ran out of memory with one clip"):
        Machine(lambda n: 1.0, room=0).search()
    assert Machine(lambda n: 1.0, full=lambda n: 0.95).search()[0] == 1


def test_other_errors_pass_and_leave_nothing_behind() -> None:
    machine = Machine(lambda n: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        machine.search()
    assert not machine.micro.fixed


def test_processes_agree_on_the_smallest() -> None:
    class Two(Ranks):
        def gather(self, text: str) -> list[str]:
            return [text, "2"]  # the other one has found 2

    machine = Machine(lambda n: 1.0)
    assert machine.search(most=8, ranks=Two(0, 2))[0] == 2
    assert isinstance(machine.ranks, Ranks)


def test_longest_clips() -> None:
    clips: Any = {(1, index): index for index in range(4)}
    batch_of = longest_clips(clips, tuple, [30, 50, 40, 50])
    assert [batch_of(count) for count in (1, 2, 4)] == [(1,), (1, 3), (1, 3, 2, 0)]
    broken = longest_clips(clips, lambda found: DatasetError("gone"), [1, 1, 1, 1])
    with pytest.raises(DatasetError, match="gone"):
        broken(2)


@dataclass(frozen=True)
class TinyTrain:
    batch_size: int


@dataclass(frozen=True)
class TinyConfig:
    train: TinyTrain


def test_the_size_of_a_run_that_goes_on_is_kept() -> None:
    config = TinyConfig(TinyTrain(6))
    extra = {"order": {"batch_size": 16}}
    for asked, entry, size, searching in (
        ("auto", None, 6, True),
        ("auto", extra, 16, False),
        ("auto", {"order": {}}, 6, True),
        (6, extra, 6, False),
        (None, extra, 6, False),
    ):
        settled, still = settle_batch_size(config, asked, entry)
        assert (settled.train.batch_size, still) == (size, searching)
    assert with_batch_size(config, 3).train.batch_size == 3


# ---- nothing is left of it -----------------------------------------------------------------------


def everything(nets: Adversaries) -> list[Tensor]:
    states = [module.state_dict() for module in nets.modules]
    tensors = [tensor.clone() for state in states for tensor in state.values()]
    for optimizer in nets.optimizers:
        for state in optimizer.state.values():
            tensors += [value.clone() for value in state.values()]
    return [*tensors, torch.get_rng_state()]


@pytest.mark.parametrize("trained", [0, 2])
def test_everything_comes_back_bit_for_bit(
    make_voices: Callable[..., Any], batch: Any, trained: int
) -> None:
    """Of fresh nets and of trained ones; with a norm that has a state, dropout and a loss scaler."""
    config = make_voices(model={"use_spectral_norm": True}).config
    runs = []
    for tried in (False, True):
        torch.manual_seed(3)
        nets = Adversaries(config, CPU)
        nets.scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1)
        for step in range(1, trained + 1):
            nets.step(batch, step, detailed=False)
        nets.guard.drain()
        if tried:
            before, scale = everything(nets), nets.scaler.state_dict()
            rates = [optimizer.param_groups[0]["lr"] for optimizer in nets.optimizers]
            with untouched(nets):
                for step in (5, 6):
                    nets.step(batch, step, detailed=False)
                nets.set_learning_rate(1.0)
                changed = everything(nets)
            after = everything(nets)
            assert len(before) == len(after)
            assert all(map(torch.equal, before, after))
            assert not all(map(torch.equal, before, changed[: len(before)]))
            assert nets.scaler.state_dict() == scale
            assert [o.param_groups[0]["lr"] for o in nets.optimizers] == rates
            assert all(p.grad is None for module in nets.modules for p in module.parameters())
            assert nets.guard.drain() == []
        for step in (trained + 1, trained + 2):
            nets.step(batch, step, detailed=False)
        runs.append(everything(nets))
    assert all(map(torch.equal, *runs))


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="needs Linux's /proc")
def test_host_memory_is_measured() -> None:
    free = available()
    assert free is not None
    assert 2**20 < free < 2**50
    gauge = HostGauge()
    before = gauge.full()
    block = torch.ones(60 * 2**18)  # 60 MiB
    after = gauge.full()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(60 * 2**20 / free, rel=0.3)
    del block
    assert gauge.full() == pytest.approx(after, rel=0.05)  # the most there was


def test_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, limit, used = (tmp_path / name for name in ("meminfo", "max", "current"))
    info.write_text("MemTotal: 99 kB\nMemAvailable:   2000 kB\n")
    monkeypatch.setattr(memory, "_INFO", info)
    monkeypatch.setattr(memory, "_GROUPS", ((limit, used),))
    assert available() == 2000 * 1024
    used.write_text("300000\n")
    for text, expected in (("max\n", 2048000), ("800000\n", 500000), ("100\n", 0)):
        limit.write_text(text)
        assert available() == expected
    info.write_text("nothing of it")
    assert available() is None
    assert HostGauge().full() is None


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count searches, each of which finds 4 after the real steps."""
    searches: list[int] = []
    search = probe.find_batch_size

    def counted(learner: Any, *args: Any, **options: Any) -> tuple[int, str]:
        search(learner, *args, **options)
        searches.append(1)
        return 4, "--batch_size auto: 4; as this test wants it"

    for module in (synthesizer, vocoder, diffusion):
        monkeypatch.setattr(module, "find_batch_size", counted)
    return searches


def test_a_run_finds_its_batch_size_and_keeps_it(
    voices: Any, found: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The search leaves no trace: the run is the one with that number."""
    command = ["train", "-c", str(voices.config_path), "--device", "cpu"]
    for steps in ("2", "3"):
        arguments = ["-m", "auto", "--max_steps", steps, "--batch_size", "auto"]
        assert main([*command, *arguments]) == 0
        assert main([*command, "-m", "given", "--max_steps", steps, "--batch_size", "4"]) == 0
    assert len(found) == 1
    one, two = (load_checkpoint(Path(f"logs/{name}/G_3.pth")) for name in ("auto", "given"))
    for content in (one, two):
        assert content["svc"]["order"]["batch_size"] == 4
        assert content["svc"]["config"]["train"]["batch_size"] == 4
    assert all(map(torch.equal, one["model"].values(), two["model"].values()))
    log = Path("logs/auto/train.log").read_text()
    assert log.count("--batch_size auto: 4") == 1
    assert "the data set or batch size has changed" not in log


def test_a_diffusion_run_finds_its_batch_size(
    make_run: Callable[..., Any], found: list[int]
) -> None:
    run = make_run(train={"interval_val": 100})
    command = ["train-diff", "-c", str(run.config_path), "--device", "cpu", "--val_samples", "0"]
    for steps in ("1", "2"):
        assert main([*command, "--batch_size", "auto", "--max_steps", steps]) == 0
    assert len(found) == 1
    saved = load_checkpoint(Path(run.config.env.expdir) / "model_2.pt")
    assert saved["svc"]["order"]["batch_size"] == 4


def test_a_vocoder_run_finds_its_batch_size(vocoder_command: list[str], found: list[int]) -> None:
    for steps in ("1", "2"):
        assert main([*vocoder_command, "--batch_size", "auto", "--max_steps", steps]) == 0
    assert len(found) == 1
    assert load_checkpoint(Path("v/V_2.pth"))["svc"]["order"]["batch_size"] == 4


def test_what_the_flag_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "-m", "m", "--batch_size", "many"])
    assert "invalid batch_size value: 'many'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--batch_size is 0"):
        TrainOptions(model="m", batch_size=0)
    with pytest.raises(ConfigError, match="--batch_size is 'many', and must be a number or auto"):
        TrainOptions(model="m", batch_size="many")  # type: ignore[arg-type]
    assert TrainOptions(model="m", batch_size="auto").batch_size == "auto"
