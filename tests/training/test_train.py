from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.errors import CheckpointError, ConfigError, OutputError, SvcError
from svc.synthesizer.loading import load_synthesizer
from svc.training.options import TrainOptions, TrainResult
from svc.training.synthesizer import train

pytestmark = pytest.mark.usefixtures("no_pictures")


def go(voices: Any, model: str = "m", **options: Any) -> TrainResult:
    return train(TrainOptions(model=model, config=voices.config_path, device="cpu", **options))


def log_of(model: str = "m") -> str:
    return Path("logs", model, "train.log").read_text(encoding="utf-8")


def equal(one: Any, two: Any, where: str = "") -> None:
    """Compare two checkpoints bit for bit."""
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, Mapping):
        assert list(one) == list(two), where
        for key in one:
            equal(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for index, pair in enumerate(zip(one, two, strict=True)):
            equal(*pair, f"{where}/{index}")
    else:
        assert one == two, where


def equal_checkpoints(step: int, one: str, two: str) -> None:
    for kind in "GD":
        name = f"{kind}_{step}.pth"
        equal(
            load_checkpoint(Path("logs", one, name)), load_checkpoint(Path("logs", two, name)), kind
        )


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(
    make_voices: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted within an epoch (3 of 4 batches) and exactly at the end of one (4), and with the
    clips in memory in one run and on disk in the other.
    """
    voices = make_voices(
        model={"vol_embedding": True},
        train={"vol_aug": True, "warmup_epochs": 2, "gan_start_step": 3, "eval_interval": 100},
    )
    straight = go(voices, "straight", max_steps=6)
    assert (straight.step, straight.epoch, straight.steps_run) == (6, 2, 6)
    monkeypatch.setattr("svc.training.clips.RAM_LIMIT_BYTES", 0)
    for steps in (3, 4, 6):
        result = go(voices, "parts", max_steps=steps)
        assert result.reason == "max_steps"
    assert result.steps_run == 2
    equal_checkpoints(6, "straight", "parts")
    assert "in memory: all" in log_of("straight")
    assert "in memory: nothing" in log_of("parts")
    assert "resume start" in log_of("parts")
    assert "every tensor" in log_of("parts")


def test_another_seed_is_another_run(voices: Any) -> None:
    for model, seed in (("a", 3), ("b", 4)):
        go(voices, model, max_steps=1, seed=seed)
    with pytest.raises(AssertionError):
        equal_checkpoints(1, "a", "b")


def test_learning_rate_warms_up_and_decays_by_epoch(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(
        lengths=(30, 25), train={"warmup_epochs": 2, "eval_interval": 1, "keep_ckpts": 0}
    )  # one batch is an epoch
    go(voices, epochs=4)
    rates = [
        load_checkpoint(Path(f"logs/m/{kind}_{step}.pth"))["optimizer"]["param_groups"][0]["lr"]
        for kind in "GD"
        for step in (1, 2, 3, 4)
    ]
    assert rates == pytest.approx([1e-4, 2e-4, 1.8e-4, 1.62e-4] * 2, rel=1e-12)
    assert load_checkpoint(Path("logs/m/G_4.pth"))["iteration"] == 4


def test_layout_of_the_run_folder(voices: Any) -> None:
    result = go(voices, max_steps=5, eval_interval=2)
    run_dir = Path("logs/m")
    assert result.run_dir == run_dir
    assert result.generator == run_dir / "G_5.pth"
    assert result.discriminator == run_dir / "D_5.pth"
    assert sorted(file.name for file in run_dir.glob("*.pth")) == [
        "D_4.pth", "D_5.pth", "G_4.pth", "G_5.pth", "G_best.pth",
    ]  # fmt: skip
    assert (run_dir / "config.json").read_bytes() == voices.config_path.read_bytes()
    assert list((run_dir / "eval").glob("events.*"))
    text = log_of()
    assert "fresh start on cpu" in text
    assert "step 2: disc " in text
    assert "reference_loss" in text
    assert "epoch 1 done in" in text
    # What was trained is a voice that sings.
    voice = load_synthesizer(run_dir / "G_5.pth", voices.config)
    wav, _ = voice.infer(
        torch.zeros(1, 384, 30), torch.full((1, 30), 220.0), torch.ones(1, 30), torch.tensor([1])
    )
    assert wav.shape == (1, 1, 30 * 64)
    # A finished run asked for the same again does nothing and says so.
    again = go(voices, max_steps=5)
    assert (again.steps_run, again.step, again.reason) == (0, 5, "max_steps")


def test_progress_is_called_after_every_step(voices: Any) -> None:
    reports: list[tuple[int, int, str]] = []
    train(
        TrainOptions(model="m", config=voices.config_path, device="cpu", max_steps=3),
        progress=lambda *report: reports.append(report),
    )
    assert [report[:2] for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert "mel" in reports[2][2]
    assert "/s" in reports[2][2]
    assert "wait" in reports[2][2]
    assert len(reports[2][2]) <= 60  # a bar shows no more


def test_an_original_run_goes_on_by_file_name_and_epoch(voices: Any) -> None:
    """Files without our keys: step from the name, epoch = iteration from its beginning."""
    go(voices, max_steps=5)
    for kind in "GD":
        content = load_checkpoint(Path(f"logs/m/{kind}_5.pth"))
        del content["svc"]
        save_checkpoint({**content, "iteration": 7}, Path(f"logs/o/{kind}_2400.pth"))
    rate = content["optimizer"]["param_groups"][0]["lr"]
    assert rate == pytest.approx(1.8e-4)
    result = go(voices, "o", max_steps=2402)
    assert (result.steps_run, result.step, result.epoch) == (2, 2402, 7)
    assert "no exact position in the file: epoch 7 from its beginning" in log_of("o")
    saved = load_checkpoint(Path("logs/o/G_2402.pth"))
    assert saved["svc"]["batch"] == 2
    assert saved["optimizer"]["param_groups"][0]["lr"] == rate  # goes on unchanged
    assert float(saved["optimizer"]["state"][0]["step"]) == 7


@pytest.fixture
def base(voices: Any) -> Path:
    """A folder with a base model trained on two speakers, without our keys."""
    go(voices, "first", max_steps=2)
    for kind in "GD":
        content = load_checkpoint(Path(f"logs/first/{kind}_2.pth"))
        del content["svc"]
        save_checkpoint({**content, "iteration": 1}, Path(f"logs/m/{kind}_0.pth"))
    return Path("logs/m")


def test_base_model_with_another_number_of_speakers(voices: Any, base: Path) -> None:
    before = {kind: (base / f"{kind}_0.pth").read_bytes() for kind in "GD"}
    weights = load_checkpoint(base / "G_0.pth")["model"]
    voices.edit(spk={"alice": 3, "bob": 1, "zoe": 0}, model={"n_speakers": 4})
    result = go(voices, max_steps=5)
    assert (result.step, result.steps_run, result.epoch) == (5, 5, 2)
    text = log_of()
    assert "base start" in text
    assert "G_0.pth: new: emb_g (1)" in text
    # All but one of the optimiser's tensors are kept, and the base files stay as they are.
    count = len(load_checkpoint(base / "G_5.pth")["optimizer"]["state"])
    assert f"optimizer state of {count - 1} of {count} tensors" in text
    assert {kind: (base / f"{kind}_0.pth").read_bytes() for kind in "GD"} == before
    trained = load_checkpoint(base / "G_5.pth")["model"]
    assert trained["emb_g.weight"].shape == (4, 6)
    change = (trained["enc_q.proj.weight"] - weights["enc_q.proj.weight"]).abs().max()
    assert 0 < float(change) < 0.01  # five small steps away from the base, not a fresh net
    # The next call goes on from the run, not from the base model.
    assert go(voices, max_steps=6).steps_run == 1


def test_base_model_of_another_kind_needs_force(voices: Any, base: Path) -> None:
    voices.edit(model={"hidden_channels": 16})
    with pytest.raises(
        SvcError, match=r"G_0\.pth does not fit .*hidden_channels.*--force"
    ) as caught:
        go(voices, max_steps=1)
    assert "\n" not in str(caught.value)
    assert not list(base.glob("G_1.pth"))
    go(voices, max_steps=1, force=True)
    assert "G_0.pth: new: " in log_of()


def test_released_files_refuse_to_be_resumed(voices: Any) -> None:
    go(voices, max_steps=2)
    path = Path("logs/m/G_2.pth")
    content = load_checkpoint(path)
    model = {name: value for name, value in content["model"].items() if "enc_q" not in name}
    save_checkpoint({**content, "model": model, "optimizer": {"state": {}}}, path)
    with pytest.raises(CheckpointError, match=r"G_2\.pth is a released \(compressed\) file"):
        go(voices, max_steps=4)
    go(voices, max_steps=3, force=True)
    assert "G_2.pth: new: enc_q" in log_of()


def test_an_unreadable_newest_checkpoint_never_restarts(voices: Any) -> None:
    go(voices, max_steps=5)
    path = Path("logs/m/G_5.pth")
    path.write_bytes(path.read_bytes()[:3000])
    files = {file: file.read_bytes() for file in Path("logs/m").iterdir() if file.is_file()}
    with pytest.raises(CheckpointError, match=r"G_5\.pth: not a readable.*--resume .*G_4\.pth"):
        go(voices, max_steps=6)
    assert {f: f.read_bytes() for f in Path("logs/m").iterdir() if f.is_file()} == files
    # The way out that the message names works, and the damaged pair is moved out of the way.
    result = go(voices, max_steps=6, resume="logs/m/G_4.pth")
    assert result.steps_run == 2
    assert Path("logs/m/earlier_1/G_5.pth").is_file()
    assert go(voices, max_steps=7).steps_run == 1


def test_resume_never_begins_again_and_keeps_the_old_run(voices: Any) -> None:
    go(voices, max_steps=4)
    voices.edit(model={"filter_channels": 24})
    with pytest.raises(ConfigError, match=r"model section .* \(filter_channels 16 -> 24\)"):
        go(voices, max_steps=5)
    result = go(voices, max_steps=2, resume="never")
    assert (result.step, result.steps_run) == (2, 2)
    assert sorted(f.name for f in Path("logs/m").glob("*_2.pth")) == ["D_2.pth", "G_2.pth"]
    assert Path("logs/m/earlier_1/G_4.pth").is_file()
    assert Path("logs/m/earlier_1/G_best.pth").is_file()
    assert Path("logs/m/config.1.json").is_file()
    assert (
        load_checkpoint(Path("logs/m/G_2.pth"))["svc"]["config"]["model"]["filter_channels"] == 24
    )


def test_other_speakers_in_the_same_folder_are_refused(voices: Any) -> None:
    go(voices, max_steps=1)
    voices.edit(spk={"alice": 1, "bob": 0})
    with pytest.raises(ConfigError, match=r"trained for the speakers .*another --model name"):
        go(voices, max_steps=2)


def test_a_changed_data_set_begins_its_epoch_anew(voices: Any) -> None:
    go(voices, max_steps=6)
    lines = Path("train.txt").read_text().splitlines()
    Path("train.txt").write_text("\n".join(lines[:-1]))
    result = go(voices, max_steps=7)
    assert "the data set or batch size has changed: epoch 2 from its beginning" in log_of()
    assert load_checkpoint(Path("logs/m/G_7.pth"))["svc"]["batch"] == 1
    assert result.epoch == 2


def test_learning_rate_of_the_command_line_wins_over_the_optimizers(voices: Any) -> None:
    go(voices, max_steps=5)
    go(voices, max_steps=6, learning_rate=4e-4)
    content = load_checkpoint(Path("logs/m/G_6.pth"))
    assert content["learning_rate"] == 4e-4
    assert content["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.9 * 4e-4)


def test_a_loss_that_is_no_number_saves_nothing(
    voices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it: the run used to end here, and now leaves the step out and goes on. A whole bad
    epoch leaves the weights of the one before.
    """
    from svc.training.clips import ClipDataset

    clip = ClipDataset.clip

    def broken(self: ClipDataset, index: int, epoch: int) -> Any:
        found = clip(self, index, epoch)
        if not self.augment or epoch != 2:
            return found
        nowhere = torch.full_like(found.spec, torch.nan)
        return dataclasses.replace(found, spec=nowhere, wav=found.wav + torch.nan)

    monkeypatch.setattr(ClipDataset, "clip", broken)
    result = go(voices, max_steps=8)
    assert (result.step, result.reason) == (8, "max_steps")
    assert result.trouble is not None
    four, eight = (load_checkpoint(Path(f"logs/m/G_{step}.pth")) for step in (4, 8))
    equal(four["model"], eight["model"])
    equal(four["optimizer"]["state"], eight["optimizer"]["state"])
    assert all(np.isfinite(value) for value in result.losses.values())
    assert "step 5 was skipped" in log_of()


def test_warnings(voices: Any, caplog: pytest.LogCaptureFixture) -> None:
    voices.edit(train={"vol_aug": True})
    Path("val.txt").write_text("")
    with caplog.at_level(logging.WARNING, logger="svc.training"):
        go(voices, max_steps=1)
    assert any("vol_aug" in message for message in caplog.messages)
    assert any("no held-out clips" in message for message in caplog.messages)


def test_unwritable_run_folder(voices: Any) -> None:
    Path("logs").write_text("a file is in the way")
    with pytest.raises(OutputError, match="logs"):
        go(voices, max_steps=1)


def test_evaluation_leaves_training_untouched(make_voices: Callable[..., Any]) -> None:
    voices = make_voices()
    go(voices, "often", max_steps=2, eval_interval=1)
    go(voices, "once", max_steps=2)
    one, two = (load_checkpoint(Path(f"logs/{name}/G_2.pth")) for name in ("often", "once"))
    equal(one["model"], two["model"])
    equal(one["svc"]["rng"], two["svc"]["rng"])


def test_bfloat16_run(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(train={"fp16_run": True, "half_type": "bf16"})
    result = go(voices, max_steps=2)
    assert all(np.isfinite(value) for value in result.losses.values())
    content = load_checkpoint(Path("logs/m/G_2.pth"))
    assert {tensor.dtype for tensor in content["model"].values()} == {torch.float32}
    assert content["svc"]["scaler"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "a/b"}, "--model 'a/b' is not a name"),
        ({"model": ".."}, "is not a name"),
        ({"batch_size": 0}, "--batch_size is 0"),
        ({"max_minutes": -1.0}, "--max_minutes is -1.0"),
        ({"learning_rate": float("nan")}, "--learning_rate is nan"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainOptions(**{"model": "m", **options})
