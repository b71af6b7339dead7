"""Steps with numbers that are not finite: left out, counted, written down; and going back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.cli.main import main
from svc.errors import SvcError
from svc.training.batches import Batch
from svc.training.clips import ClipDataset
from svc.training.descent import step_unless
from svc.training.diffusion import train as train_diffusion
from svc.training.diffusion_clips import DiffusionDataset
from svc.training.diffusion_options import DiffusionTrainOptions
from svc.training.journal import Journal
from svc.training.microbatch import MicroBatches
from svc.training.numerics import FiniteGuard, SeenStep, adamw, all_finite
from svc.training.options import TrainOptions, TrainResult
from svc.training.ranks import PeerError, Ranks
from svc.training.rollback import roll_back
from svc.training.step import Adversaries
from svc.training.synthesizer import train
from svc.training.trouble import FILE, KEY, MAX_ROLL_BACKS, Trouble
from svc.training.vocoder_clips import VocoderDataset

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("no_pictures")


def everything(nets: Adversaries) -> list[Tensor]:
    """All that a step changes."""
    tensors = [t for module in nets.modules for t in module.state_dict().values()]
    for optimizer in nets.optimizers:
        for state in optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return [tensor.clone() for tensor in tensors]


def same(one: Sequence[Tensor], two: Sequence[Tensor]) -> bool:
    return len(one) == len(two) and all(map(torch.equal, one, two))


def poisoned(batch: Batch, clip: int) -> Batch:
    spec = batch.spec.clone()
    spec[clip, 3, 5] = torch.nan
    return dataclasses.replace(batch, spec=spec)


# ---- a step --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("fused", [True, False])
def test_a_bad_step_changes_nothing(
    voices: Any, batch: Batch, limit: int | None, fused: bool
) -> None:
    """Neither weights nor moments nor the count of steps, of both nets; the bad clip is found."""
    nets = Adversaries(voices.config, CPU)
    nets.micro.limit = limit
    for optimizer in nets.optimizers:
        optimizer.param_groups[0]["fused"] = True if fused else None
    nets.step(batch, 1, detailed=False)
    before = everything(nets)
    detail = nets.step(poisoned(batch, 1), 2, detailed=True)
    assert detail is not None
    assert same(before, everything(nets))
    good, bad = nets.guard.drain()
    assert (good.step, good.bad, good.suspects, good.strange) == (1, False, (), {})
    assert (bad.step, bad.bad, bad.names) == (2, True, batch.names)
    assert bad.suspects == (batch.names[1],)
    assert {"disc", "mel", "kl", "gradient norm d", "gradient norm g"} <= set(bad.strange)
    # The next one goes on as if that had not been.
    nets.step(batch, 3, detailed=False)
    assert not same(before, everything(nets))
    assert nets.sound()
    assert {float(s["step"]) for o in nets.optimizers for s in o.state.values()} == {2.0}


def test_a_bad_generator_step_keeps_the_discriminators(voices: Any, batch: Batch) -> None:
    """It was taken by then, from finite numbers."""
    nets = Adversaries(voices.config, CPU)
    nets.step(batch, 1, detailed=False)
    nets.generator.dec.conv_post.bias.register_hook(lambda gradient: gradient * torch.inf)
    generator, discriminator = (
        [t.clone() for t in module.state_dict().values()] for module in nets.modules
    )
    nets.step(batch, 2, detailed=False)
    assert same(generator, list(nets.generator.state_dict().values()))
    assert not same(discriminator, list(nets.discriminator.state_dict().values()))
    seen = nets.guard.drain()[-1]
    assert seen.bad
    assert set(seen.strange) == {"gradient norm g"}
    assert seen.suspects == ()


def test_a_bad_discriminator_step_stops_the_generators(voices: Any, batch: Batch) -> None:
    nets = Adversaries(voices.config, CPU)
    nets.discriminator.discriminators[2].conv_post.bias.register_hook(
        lambda gradient: gradient * torch.nan
    )
    before = everything(nets)
    nets.step(batch, 1, detailed=False)
    assert same(before, everything(nets)[: len(before)])  # moments exist now, and are zero
    seen = nets.guard.drain()[-1]
    assert seen.bad
    assert set(seen.strange) == {"gradient norm d"}


def test_an_infinite_loss_with_finite_gradients_is_bad(voices: Any, batch: Batch) -> None:
    """The gradient of a distance is its sign, however far it is."""
    nets = Adversaries(voices.config, CPU)
    nets.train_config = dataclasses.replace(nets.train_config, gan_start_step=9)
    nets.config = dataclasses.replace(
        nets.config, train=dataclasses.replace(nets.config.train, c_mel=3e38)
    )
    before = [t.clone() for t in nets.generator.state_dict().values()]
    nets.step(batch, 1, detailed=False)
    assert same(before, list(nets.generator.state_dict().values()))
    assert "mel" in nets.guard.drain()[-1].strange


def test_a_loss_scaler_that_looks_for_its_scale_is_no_trouble(voices: Any, batch: Batch) -> None:
    """Gradients overflow while the losses are finite: left out, halved, not counted; but counted
    when even gradients that are not amplified overflow.
    """
    nets = Adversaries(voices.config, CPU)
    nets.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = everything(nets)
    nets.step(batch, 1, detailed=False)
    assert same(before, everything(nets)[: len(before)])
    assert nets.scaler.get_scale() == 2.0**126
    seen = nets.guard.drain()[-1]
    assert not seen.bad
    assert seen.strange  # so it is no good step either
    scaler = nets.scaler
    for step in range(2, 200):
        nets.step(batch, step, detailed=False)
        if not nets.guard.drain()[-1].strange:
            break
    assert scaler.get_scale() > 1
    assert not same(before, everything(nets)[: len(before)])
    # With finite losses and a hopeless gradient the scale falls below 1, and then it is trouble.
    nets.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    nets.generator.dec.conv_post.bias.register_hook(lambda gradient: gradient * torch.inf)
    bad = []
    for step in range(200, 204):
        nets.step(batch, step, detailed=False)
        bad.append(nets.guard.drain()[-1].bad)
    assert bad == [False, False, True, True]  # 2, 1, 0.5, 0.25
    # A loss that is not finite is trouble at any scale.
    nets.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    nets.step(poisoned(batch, 0), 300, detailed=False)
    assert nets.guard.drain()[-1].bad


def test_step_unless_is_adamws_step_or_none() -> None:
    torch.manual_seed(0)
    nets = [torch.nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    plain, careful = (
        adamw(net, lr=0.1, betas=(0.8, 0.99), eps=1e-9, weight_decay=0.01) for net in nets
    )
    for number in range(6):
        gradient = torch.randn(2, 3)
        skip = number in (1, 4)
        for net in nets:
            net.weight.grad, net.bias.grad = gradient.clone(), gradient[:, 0].clone()
        if not skip:
            plain.step()
        step_unless(careful, torch.tensor(skip))
    assert torch.equal(nets[0].weight, nets[1].weight)
    assert torch.equal(nets[0].bias, nets[1].bias)
    assert not hasattr(careful, "found_inf")


def test_all_finite() -> None:
    net = torch.nn.Linear(3, 2)
    assert all_finite([net, net])
    for value in (torch.nan, torch.inf, -torch.inf):
        with torch.no_grad():
            net.bias[1] = value
        assert not all_finite([net])


# ---- what a run does about it --------------------------------------------------------------------


class Learner:
    """What is watched, without a net."""

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.guard, self.micro = FiniteGuard(CPU), MicroBatches(CPU)
        self.ranks, self.whole = ranks or Ranks.single(), True

    def sound(self) -> bool:
        return self.whole

    def take(self, trouble: Trouble, step: int, *bad: str) -> None:
        """Take a step in which the clips named are bad."""
        names = ("a", "b", "c")
        values = {"mel": torch.tensor(torch.nan if bad else 1.0)}
        sound = torch.tensor([name not in bad for name in names])
        self.guard.watch(step, names, values, torch.tensor(bool(bad)), sound)
        trouble.look(step, 1)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A learner, its trouble (3 in a row), and the roll-backs made."""
    learner, made = Learner(), []

    def back(passed: int) -> Path:
        made.append(passed)
        return tmp_path / "G_40.pth"

    with Journal(tmp_path, 1) as journal:
        trouble = Trouble(learner, tmp_path, journal, back, max_bad=3, advice="lower --lr")
        yield learner, trouble, made, tmp_path


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_rolls_back_after_so_many_in_a_row(run: Any) -> None:
    learner, trouble, made, folder = run
    for step, bad in enumerate((1, 1, 0, 1, 1), start=1):
        learner.take(trouble, step, *"b" * bad)
    assert (trouble.skipped, trouble.in_a_row, made) == (4, 2, [])
    learner.take(trouble, 6, "b")
    assert (trouble.skipped, trouble.in_a_row, len(made)) == (5, 0, 1)
    entries = lines(folder)
    assert [entry["step"] for entry in entries] == [1, 2, 4, 5, 6, 6]
    assert entries[0] == {
        "step": 1, "epoch": 1, "losses": {"mel": "nan"}, "clips": ["a", "b", "c"],
        "suspects": ["b"], "done": "skipped",
    }  # fmt: skip
    assert entries[-1]["done"].startswith("rolled back to ")
    assert entries[-1]["done"].endswith("G_40.pth")
    log = (folder / "train.log").read_text()
    assert "WARNING\tstep 1 was skipped (mel = nan), number 1 of this run; clips: b;" in log
    assert "nothing finite in 3 steps in a row, up to step 6" in log


def test_ends_where_rolling_back_does_not_help(run: Any) -> None:
    """Saves in between count as good only when something was learnt."""
    learner, trouble, made, _ = run
    step = 0
    for _ in range(3 * MAX_ROLL_BACKS + 2):
        step += 1
        learner.take(trouble, step, "b" if step % 2 else "c")
        trouble.entries()  # saved, though nothing was learnt since the last roll-back
    assert made == list(range(MAX_ROLL_BACKS))  # each to an older checkpoint
    with pytest.raises(SvcError) as caught:
        learner.take(trouble, step + 1, "b")
    text = str(caught.value)
    assert "\n" not in text
    assert "step 12: nothing finite in 3 steps in a row, and 3 roll-backs have not helped" in text
    assert "b (7 times), c (5 times)" in text
    assert "listen to them, lower --lr;" in text
    assert trouble.entries()  # what is there can still be saved


def test_a_good_save_in_between_begins_the_count_anew(run: Any) -> None:
    learner, trouble, made, _ = run
    for step in range(1, 60):
        learner.take(trouble, step, *([] if step % 4 == 0 else ["a"]))
        if step % 4 == 0:
            trouble.entries()
    assert made == [0] * 15  # to the newest each time


def test_ends_without_a_checkpoint(tmp_path: Path) -> None:
    learner = Learner()
    with Journal(tmp_path, 1) as journal:
        trouble = Trouble(learner, tmp_path, journal, lambda back: None, max_bad=2, advice="x")
        learner.take(trouble, 1, "a")
        with pytest.raises(
            SvcError, match=r"there is no checkpoint yet to go back to.*a \(2 times\)"
        ):
            learner.take(trouble, 2, "a")


def test_weights_that_are_not_finite_are_never_saved(run: Any) -> None:
    learner, trouble, made, _ = run
    learner.take(trouble, 1)
    learner.whole = False
    trouble.entries()
    assert len(made) == 1
    for _ in range(2):
        trouble.settle()
    with pytest.raises(SvcError, match="weights that are not finite"):
        trouble.entries()
    with pytest.raises(SvcError, match="weights that are not finite"):
        trouble.entries()


def test_the_first_are_told_and_then_powers_of_ten(run: Any) -> None:
    learner, trouble, _, folder = run
    for step in range(1, 250):
        learner.take(trouble, step, *([] if step % 2 else ["a"]))
    assert trouble.skipped == 124
    told = [
        text for text in (folder / "train.log").read_text().splitlines() if "was skipped" in text
    ]
    assert [int(text.split("number ")[1].split()[0]) for text in told] == [1, 2, 3, 4, 5, 10, 100]
    assert len(lines(folder)) == 124
    summary = trouble.summary()
    assert summary is not None
    assert "124 steps of this run were skipped" in summary
    assert f"in {folder / FILE}, most often a (124)" in summary


def test_what_overflows_in_float16_is_neither_good_nor_bad(run: Any) -> None:
    learner, trouble, made, folder = run
    for step in range(1, 10):
        values = {"mel": torch.tensor(1.0), "gradient norm g": torch.tensor(torch.inf)}
        learner.guard.watch(step, ("a",), values, torch.tensor(False), torch.tensor([True]))
        trouble.look(step, 1)
    assert (trouble.skipped, made) == (0, [])
    assert not (folder / FILE).exists()
    assert trouble.summary() is None


def test_counts_are_kept(run: Any, tmp_path: Path) -> None:
    learner, trouble, _, folder = run
    learner.micro.limit = 4
    for step in range(1, 6):
        learner.take(trouble, step, "a")
    kept = trouble.entries()
    assert kept[KEY]["skipped"] == 5
    assert all(type(value) is int for value in kept[KEY].values())
    other = Learner()
    again = Trouble(other, folder, trouble.journal, lambda back: folder, max_bad=3, advice="x")
    again.go_on(json.loads(json.dumps(kept)))
    assert again.entries() == kept
    assert other.micro.limit == 4
    assert again.worst() == [("a", 5)]
    fresh = Trouble(Learner(), folder, trouble.journal, lambda back: folder, max_bad=3, advice="x")
    fresh.go_on(None)
    assert fresh.entries()[KEY]["skipped"] == 0


def test_half_a_line_of_a_kill_is_cut_off(run: Any) -> None:
    learner, trouble, _, folder = run
    (folder / FILE).write_text(
        '{"step": 1, "clips": ["z"], "suspects": [], "done": "skipped"}\n{"st'
    )
    learner.take(trouble, 2, "a")
    assert [entry["step"] for entry in lines(folder)] == [1, 2]
    assert dict(trouble.worst()) == {"z": 1, "a": 1}


def test_a_full_disk_costs_the_line_not_the_run(run: Any) -> None:
    learner, trouble, _, folder = run
    (folder / FILE).mkdir()
    learner.take(trouble, 1, "a")
    assert trouble.skipped == 1
    assert "cannot write" in (folder / "train.log").read_text()


class Pair(Ranks):
    """One of two processes; the other says what it is told to."""

    def __init__(self, rank: int, other: str) -> None:
        super().__init__(rank, 2, rank, 2)
        self.other = other

    def exchange(self, text: str) -> list[str]:
        return [text, self.other] if self.rank == 0 else [self.other, text]


def test_clips_of_another_process_are_named(tmp_path: Path) -> None:
    """Its losses were bad; this one's were finite until the gradients were averaged."""
    facts = {"losses": {"kl": "inf"}, "clips": ["x", "y"], "suspects": ["y"]}
    for rank, folder in ((0, tmp_path / "0"), (1, tmp_path / "1")):
        learner = Learner(Pair(rank, json.dumps(facts)))
        with Journal(folder, 1) as journal:
            trouble = Trouble(learner, folder, journal, lambda back: None, max_bad=2, advice="x")
            for step in (1, 2):
                values = {"kl": torch.tensor(1.0), "gradient norm g": torch.tensor(torch.nan)}
                learner.guard.watch(step, ("a",), values, torch.tensor(True), torch.tensor([True]))
                if step == 1:
                    trouble.look(step, 1)
            expected = SvcError if rank == 0 else PeerError
            with pytest.raises(expected) as caught:
                trouble.look(2, 1)
        assert bool(str(caught.value)) == (rank == 0)  # one of them tells
        assert (folder / FILE).exists() == (rank == 0)
    assert lines(tmp_path / "0")[0] == {"step": 1, "epoch": 1, **facts, "done": "skipped"}


# ---- whole runs ----------------------------------------------------------------------------------


def go(voices: Any, model: str = "m", **options: Any) -> TrainResult:
    return train(TrainOptions(model=model, config=voices.config_path, device="cpu", **options))


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, int], bool]], None]:
    """Return a function that makes the clips (epoch, index) NaN for which its argument is true."""
    clip = ClipDataset.clip  # the sound one, however often another choice is made

    def install(chosen: Callable[[int, int], bool]) -> None:
        def broken(self: ClipDataset, index: int, epoch: int) -> Any:
            found = clip(self, index, epoch)
            if self.augment and chosen(epoch, index):
                found = dataclasses.replace(found, spec=torch.full_like(found.spec, torch.nan))
            return found

        monkeypatch.setattr(ClipDataset, "clip", broken)

    return install


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_of(item)]
    return []


def test_a_run_with_bad_clips_is_the_same_in_parts(voices: Any, poison: Any) -> None:
    """8 clips, two a step; two of them are bad in every epoch. 10 steps at once, or 3 + 4 + 3."""
    poison(lambda epoch, index: index in (1, 6))
    straight = go(voices, "straight", max_steps=10, eval_interval=4)
    for steps in (3, 7, 10):
        result = go(voices, "parts", max_steps=steps, eval_interval=4)
    for kind in "GD":
        one, two = (
            load_checkpoint(Path("logs", name, f"{kind}_10.pth")) for name in ("straight", "parts")
        )
        pairs = list(zip(tensors_of(one), tensors_of(two), strict=True))
        assert len(pairs) > 100
        assert all(torch.equal(*pair) for pair in pairs)
        assert one["svc"][KEY] == two["svc"][KEY]
        assert all(
            torch.isfinite(tensor).all() for tensor in tensors_of(one) if tensor.is_floating_point()
        )
    skipped = one["svc"][KEY]["skipped"]
    assert 2 <= skipped <= 5  # both in one batch of an epoch, or in two
    assert straight.trouble == (result.trouble or "").replace("parts", "straight")
    assert straight.trouble is not None
    assert straight.trouble.startswith(f"{skipped} steps of this run were skipped")
    entries = lines(Path("logs/parts"))
    assert len(entries) == skipped
    assert {name for entry in entries for name in entry["suspects"]} == {
        str(path) for path in (voices.files()[1], voices.files("bob")[2])
    }


def test_a_run_goes_back_to_its_checkpoint_and_on(voices: Any, poison: Any) -> None:
    """Epoch 2 (steps 5 to 8) is bad: after two of its steps the run is at G_3 again, and once more."""
    poison(lambda epoch, index: epoch == 2)
    go(voices, max_steps=3, eval_interval=100)
    rates = []

    def watch(step: int, total: int, text: str) -> None:
        rates.append(step)

    options = TrainOptions(
        model="m", config=voices.config_path, device="cpu", max_steps=8, max_bad_steps=2,
        eval_interval=100,
    )  # fmt: skip
    train(options, progress=watch)
    assert rates == [4, 5, 6, 7, 8]  # the position goes on
    three, eight = (load_checkpoint(Path(f"logs/m/G_{step}.pth")) for step in (3, 8))
    assert all(map(torch.equal, tensors_of(three["model"]), tensors_of(eight["model"])))
    # The average, too, and the step after which that was done has entered it.
    assert eight["svc"]["ema_updates"] == three["svc"]["ema_updates"] + 1 == 4
    for name, average in three["svc"]["ema"].items():
        expected = torch.lerp(average, three["model"][name], 1 - 4 / 13)
        assert torch.allclose(eight["svc"]["ema"][name], expected, rtol=1e-6, atol=1e-7), name
    moments = [tensors_of(content["optimizer"]["state"]) for content in (three, eight)]
    assert all(map(torch.equal, *moments))
    # Two epochs have ended; going back has not brought the first one's rate.
    before, after = (c["optimizer"]["param_groups"][0]["lr"] for c in (three, eight))
    assert after == pytest.approx(0.81 * before)
    assert eight["svc"][KEY] == {
        "skipped": 4,
        "in_a_row": 0,
        "roll_backs": 2,
        "vain": 2,
        "learnt": 0,
    }
    log = Path("logs/m/train.log").read_text()
    assert log.count("weights, optimizers and loss scaler are those of logs/m/G_3.pth again") == 2
    result = go(voices, max_steps=9)
    assert result.steps_run == 1
    nine = load_checkpoint(Path("logs/m/G_9.pth"))
    assert not all(map(torch.equal, tensors_of(eight["model"]), tensors_of(nine["model"])))
    assert nine["svc"][KEY]["vain"] == 0


def test_which_checkpoint_is_gone_back_to(voices: Any, batch: Batch) -> None:
    """The newest that was not saved among skipped steps, then older ones; the oldest at last."""
    go(voices, max_steps=8, eval_interval=2, keep=0)
    nets = Adversaries(voices.config, CPU)
    nets.step(batch, 1, detailed=False)
    run_dir = Path("logs/m")
    found = roll_back(nets, run_dir, "G", 0)
    assert found is not None
    assert found[0] == run_dir / "G_8.pth"
    assert found[1]["step"] == 8
    saved = load_checkpoint(run_dir / "D_8.pth")
    assert all(
        map(torch.equal, tensors_of(saved["model"]), nets.discriminator.state_dict().values())
    )
    for name in ("G_8.pth", "G_4.pth"):
        content = load_checkpoint(run_dir / name)
        content["svc"][KEY]["in_a_row"] = 3
        save_checkpoint(content, run_dir / name)
    rate = nets.learning_rate
    for back, step in ((0, 6), (1, 2), (2, 2), (9, 2)):
        found = roll_back(nets, run_dir, "G", back)
        assert found is not None
        assert found[0] == run_dir / f"G_{step}.pth"
        weights = tensors_of(load_checkpoint(found[0])["model"])
        assert all(map(torch.equal, weights, nets.generator.state_dict().values()))
    assert nets.learning_rate == rate
    for name in ("G_2.pth", "G_6.pth"):
        (run_dir / name).unlink()
        (run_dir / name.replace("G", "D")).unlink()
    found = roll_back(nets, run_dir, "G", 0)
    assert found is not None
    assert found[0] == run_dir / "G_8.pth"  # better than none
    for file in run_dir.glob("*_*.pth"):
        file.unlink()
    assert roll_back(nets, run_dir, "G", 0) is None


@pytest.mark.parametrize("save_opt", [True, False])
def test_a_diffusion_run_goes_back(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, save_opt: bool
) -> None:
    """To weights and optimizer; where that is not saved, which is the default, a new one begins."""
    run = make_run(train={"interval_val": 2, "save_opt": save_opt, "batch_size": 2})
    crop = DiffusionDataset.crop
    spoilt: list[int] = []

    def broken(self: DiffusionDataset, index: int, epoch: int) -> Any:
        found = crop(self, index, epoch)
        nowhere = torch.full_like(found.mel, torch.inf)
        return dataclasses.replace(found, mel=nowhere) if spoilt else found

    monkeypatch.setattr(DiffusionDataset, "crop", broken)

    def watch(step: int, total: int, text: str) -> None:
        spoilt[:] = [1] if 3 <= step < 6 else []

    options = DiffusionTrainOptions(
        run.config_path, device="cpu", max_steps=7, max_bad_steps=2, num_workers=0, val_samples=0,
    )  # fmt: skip
    result = train_diffusion(options, progress=watch)
    assert result.step == 7
    log = Path("run/log_info.txt").read_text()
    assert "nothing finite in 2 steps in a row, up to step 5" in log
    assert "are those of run/model_2.pt again" in log  # model_4 was saved after a skipped step
    assert result.trouble is not None
    assert result.trouble.startswith("3 steps of this run were skipped")
    entries = lines(Path("run"))
    assert [entry["step"] for entry in entries] == [4, 5, 5, 6]
    assert all(len(entry["suspects"]) == 2 for entry in entries if "suspects" in entry)
    final = load_checkpoint(Path("run/model_7.pt"))
    assert all(torch.isfinite(tensor).all() for tensor in final["model"].values())
    assert final["svc"][KEY] == {
        "skipped": 3,
        "in_a_row": 0,
        "roll_backs": 1,
        "vain": 0,
        "learnt": 1,
    }


def test_a_vocoder_run_goes_back(
    vocoder_command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = VocoderDataset.crop

    def broken(self: VocoderDataset, index: int, epoch: int) -> Any:
        found = crop(self, index, epoch)
        return dataclasses.replace(found, mel=found.mel * torch.nan) if epoch == 2 else found

    monkeypatch.setattr(VocoderDataset, "crop", broken)
    options = ["--batch_size", "9", "--max_bad_steps", "1", "--eval_interval", "2", "--epochs", "3"]
    assert main([*vocoder_command, *options]) == 0
    steps = max(int(path.stem[2:]) for path in Path("v").glob("V_*.pth"))
    kept = load_checkpoint(Path(f"v/V_{steps}.pth"))["svc"][KEY]
    assert kept["skipped"] == kept["roll_backs"] == steps // 3
    assert kept["skipped"] > 0
    assert "those of v/V_" in Path("v/train.log").read_text()


def test_the_command_ends_with_one_line_and_names_the_clips(
    voices: Any, poison: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(lambda epoch, index: index == 5)
    voices.edit(train={"batch_size": 8, "max_bad_steps": 4})
    command = ["train", "-c", str(voices.config_path), "-m", "m", "--device", "cpu"]
    assert main([*command, "--max_steps", "9"]) == 2
    bad = voices.files("bob")[1]
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("svc: error:")]
    assert len(errors) == 1
    assert "step 4: nothing finite in 4 steps in a row" in errors[0]
    assert f"{bad} (4 times)" in errors[0]
    assert "--learning_rate" in errors[0]
    assert "fp16_run" in errors[0]
    assert not list(Path("logs/m").glob("*.pth"))
    # Out of the list, and the same command trains.
    poison(lambda epoch, index: False)
    Path("train.txt").write_text(Path("train.txt").read_text().replace(f"{bad}\n", ""))
    assert main([*command, "--max_steps", "2", "--max_bad_steps", "1"]) == 0
    assert "skipped" not in capsys.readouterr().out


def test_the_command_tells_of_skipped_steps_at_its_end(
    voices: Any, poison: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(lambda epoch, index: index == 5)
    command = ["train", "-c", str(voices.config_path), "-m", "m", "--device", "cpu"]
    assert main([*command, "--max_steps", "4"]) == 0
    out = capsys.readouterr().out
    assert "1 steps of this run were skipped" in out
    assert "logs/m/bad_clips.jsonl, most often" in out
    assert main([*command, "--max_steps", "4", "--max_bad_steps", "0"]) == 2


def test_seen_step_knows_what_is_strange() -> None:
    seen = SeenStep(1, ("a",), {"x": 1.0, "y": float("nan"), "z": float("-inf")}, True, ())
    assert set(seen.strange) == {"y", "z"}
