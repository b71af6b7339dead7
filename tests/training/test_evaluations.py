"""What evaluations do to a run: the best voice is kept, a run that learns no more ends, and nothing else
changes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from svc.checkpoint import load_checkpoint
from svc.errors import ConfigError, OutputError
from svc.export.voice_file import read_voice
from svc.inspection.inspector import inspect
from svc.synthesizer.loading import load_synthesizer
from svc.training import evaluations
from svc.training.best import BEST, BestFile, read_best
from svc.training.journal import METRICS
from svc.training.options import TrainOptions, TrainResult
from svc.training.scores import Score
from svc.training.stopping import StoppedError
from svc.training.synthesizer import train
from svc.training.validation import Validation

pytestmark = pytest.mark.usefixtures("no_pictures")


def go(voices: Any, model: str = "m", **options: Any) -> TrainResult:
    return train(TrainOptions(model=model, config=voices.config_path, device="cpu", **options))


def log_of(model: str = "m") -> str:
    return Path("logs", model, "train.log").read_text(encoding="utf-8")


def metrics(model: str = "m") -> list[dict[str, Any]]:
    text = Path("logs", model, METRICS).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that lets the next evaluations score these mel distances."""

    def give(*distances: float) -> None:
        left = iter(distances)
        monkeypatch.setattr(Score, "of", lambda clips: Score(next(left), 1.0, None))

    return give


def test_the_best_voice_is_kept_and_sings(voices: Any, scored: Callable[..., None]) -> None:
    scored(3.0, 1.0, 2.0)
    result = go(voices, max_steps=3, eval_interval=1)
    best = Path("logs/m", BEST)
    assert result.best == best
    assert result.record is not None
    assert (result.record.step, result.record.score) == (2, 1.0)
    assert result.scores == {"mel": 2.0, "stft": 1.0}
    content = load_checkpoint(best)
    # The original reads it as any checkpoint of its own, and one made of it can be trained further.
    assert list(content)[:4] == ["model", "iteration", "optimizer", "learning_rate"]
    assert content["iteration"] == 1
    assert content["optimizer"]["state"] == {}
    assert "initial_lr" in content["optimizer"]["param_groups"][0]
    assert list(content["model"]) == list(load_checkpoint("logs/m/G_3.pth")["model"])
    entry = content["svc"]
    assert (entry["step"], entry["speakers"], entry["released"]) == (2, voices.config.spk, False)
    assert entry["best"]["scores"] == {"mel": 1.0, "stft": 1.0}
    assert entry["best"]["averaged"] is True
    assert set(entry["voice_range"]) == set(voices.config.spk)
    assert best.stat().st_size < Path("logs/m/G_3.pth").stat().st_size / 2
    voice = load_synthesizer(best, voices.config)
    wav, _ = voice.infer(
        torch.zeros(1, 384, 30), torch.full((1, 30), 220.0), torch.ones(1, 30), torch.tensor([1])
    )
    assert wav.shape == (1, 1, 30 * 64)
    found = inspect(best).finding
    assert found.kind == "voice"
    assert found.facts["step"] == 2
    assert "the best of its run on held-out clips: mel distance 1" in found.notes
    # What was averaged is not carried along by what is made of a checkpoint for singing.
    assert {"ema", "best", "trouble"} & set(read_voice("logs/m/G_3.pth").lasting()) == set()


def test_it_holds_the_averaged_weights(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(train={"ema_decay": 0.9})
    go(voices, "with", max_steps=4)
    go(voices, "without", max_steps=4, ema=False)
    newest = load_checkpoint("logs/with/G_4.pth")
    best = load_checkpoint(Path("logs/with", BEST))["model"]
    averages = newest["svc"]["ema"]
    assert newest["svc"]["ema_updates"] == 4
    assert all(torch.equal(best[name], averages[name]) for name in averages)
    assert not torch.equal(best["pre.weight"], newest["model"]["pre.weight"])
    # Averaging and evaluating leave training alone.
    plain = load_checkpoint("logs/without/G_4.pth")
    assert "ema" not in plain["svc"]
    assert all(torch.equal(plain["model"][k], v) for k, v in newest["model"].items())
    assert torch.equal(plain["svc"]["rng"]["cpu"], newest["svc"]["rng"]["cpu"])
    best = load_checkpoint(Path("logs/without", BEST))["model"]
    assert all(torch.equal(best[name], value) for name, value in plain["model"].items())
    # Both say what they have measured, and the losses of the plain weights are the same.
    one, two = (
        next(line for line in metrics(model) if line["kind"] == "validation")
        for model in ("with", "without")
    )
    assert one["raw_loss"] == two["loss"]
    assert one["loss"] != two["loss"]
    assert "raw_loss" not in two
    assert one["measure"] == two["measure"]


def test_a_run_without_better_scores_ends(voices: Any, scored: Callable[..., None]) -> None:
    scored(5.0, 4.0, 4.5, 4.0, 4.1)
    result = go(voices, max_steps=9, eval_interval=1, patience=2)
    assert (result.reason, result.step) == ("patience", 4)
    assert "2 evaluations without a better score than 4 at step 2" in log_of()
    # What was done is saved, the same call ends at once, and one with more patience goes on.
    again = go(voices, max_steps=9, eval_interval=1, patience=2)
    assert (again.reason, again.steps_run) == ("patience", 0)
    scored(4.2, 3.0, 9.0, 9.0, 9.0)
    more = go(voices, max_steps=9, eval_interval=1, patience=4)
    assert (more.reason, more.step) == ("max_steps", 9)
    assert load_checkpoint("logs/m/G_9.pth")["svc"]["best"] == {
        "best": {"step": 6, "score": 3.0, "measure": more.record.measure},  # type: ignore[union-attr]
        "since": 3, "missed": False,
    }  # fmt: skip


def test_a_kill_never_costs_the_best_voice(voices: Any, scored: Callable[..., None]) -> None:
    """Killed after an evaluation and before its save: the steps are done again, on a machine whose
    rounding differs, say. The better voice of before stays, and the count is that of the run.
    """
    scored(5.0, 2.0, 4.0, 3.0, 3.5, 1.0)
    go(voices, max_steps=2, eval_interval=1)
    for name in ("G_2.pth", "D_2.pth"):
        Path("logs/m", name).unlink()
    result = go(voices, max_steps=4, eval_interval=1, patience=9)
    assert result.record is not None
    assert (result.record.step, result.record.score) == (2, 2.0)
    assert load_checkpoint("logs/m/G_4.pth")["svc"]["best"]["best"]["score"] == 3.0
    result = go(voices, max_steps=5, eval_interval=1)
    assert read_best(Path("logs/m", BEST)) == result.record
    assert result.record is not None
    assert (result.record.step, result.record.score) == (5, 1.0)
    lines = metrics()
    assert [line["step"] for line in lines if line.get("event") == "resume"] == [1, 4]
    assert [line["step"] for line in lines if line.get("event") == "best"] == [1, 2, 5]


def test_an_evaluation_at_the_end_of_a_call_does_not_change_the_run(
    voices: Any, scored: Callable[..., None]
) -> None:
    """In parts it is the run in one piece: what lies between two regular evaluations may give the
    best voice, and counts for nothing else.
    """
    scored(5.0, 3.0, 4.0)
    go(voices, max_steps=4)
    result = go(voices, max_steps=6)
    assert load_checkpoint("logs/m/G_6.pth")["svc"]["best"]["best"]["score"] == 5.0
    assert result.record is not None
    assert (result.record.step, result.record.score) == (6, 3.0)
    go(voices, max_steps=8)
    assert load_checkpoint("logs/m/G_8.pth")["svc"]["best"]["best"]["score"] == 4.0
    assert read_best(Path("logs/m", BEST)) == result.record


def test_an_evaluation_that_was_cut_short_is_made_up_for(
    voices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(voices, "straight", max_steps=6)
    sing = Validation.sing

    def leave(*_: Any) -> Any:
        raise StoppedError

    monkeypatch.setattr(Validation, "sing", leave)
    go(voices, max_steps=4)
    assert load_checkpoint("logs/m/G_4.pth")["svc"]["best"]["missed"] is True
    assert "evaluation at step 4 left" in log_of()
    assert not Path("logs/m", BEST).exists()
    monkeypatch.setattr(Validation, "sing", sing)
    go(voices, max_steps=6)
    one, two = (load_checkpoint(f"logs/{run}/G_6.pth")["svc"]["best"] for run in ("straight", "m"))
    assert one == two
    assert one["best"]["step"] == 4


def test_a_best_voice_that_cannot_be_written_does_not_end_the_run(
    voices: Any, scored: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(3.0, 2.0, 2.5)
    save, fail = BestFile.save, [True]

    def full(self: BestFile, *what: Any) -> None:
        if fail.pop() if fail else False:
            raise OutputError("cannot write G_best.pth: no space left on the disk")
        save(self, *what)

    monkeypatch.setattr(BestFile, "save", full)
    result = go(voices, max_steps=3, eval_interval=1)
    assert result.step == 3
    assert result.record is not None
    assert result.record.step == 2
    assert "no space left on the disk; training goes on" in log_of()


def test_running_out_of_memory_costs_the_evaluation_only(
    voices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Validation, "sing", full)
    result = go(voices, max_steps=2, eval_interval=2)
    assert result.generator == Path("logs/m/G_2.pth")
    assert 'evaluation after step 2, which has no scores: lower "train.val_clips"' in log_of()


def test_evaluations_that_take_long_are_told_of_once(
    voices: Any, scored: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(*range(9, 0, -1))
    now = [0.0]
    monkeypatch.setattr(evaluations.time, "monotonic", lambda: now[0])
    run = evaluations.Evaluations._evaluate

    def slow(self: Any, *what: Any) -> None:
        run(self, *what)
        now[0] += 1.0  # and steps take no time at all

    monkeypatch.setattr(evaluations.Evaluations, "_evaluate", slow)
    go(voices, max_steps=5, eval_interval=1)
    assert log_of().count("evaluations take 100% of the time (1.0 s each)") == 1


def test_metrics_have_every_log_line_and_evaluation(voices: Any) -> None:
    go(voices, max_steps=4, log_interval=2, eval_interval=2)
    lines = metrics()
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [1, 2, 4]
    assert set(trained[0]) == {
        "kind", "step", "time", "epoch", "losses", "learning_rate", "gradient_norms",
        "steps_per_second", "data_wait",
    }  # fmt: skip
    assert set(trained[0]["losses"]) == {"disc", "gen", "fm", "mel", "kl", "lf0", "total"}
    assert set(trained[0]["gradient_norms"]) == {"g", "d"}
    assert 0 <= trained[1]["data_wait"] <= 1
    evaluated = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in evaluated] == [2, 4]
    assert set(evaluated[0]["scores"]) >= {"mel", "stft", "voicing_error", "loudness_db"}
    assert set(evaluated[0]["loss"]) == set(evaluated[0]["raw_loss"]) == {"mel", "kl", "lf0"}
    assert evaluated[0]["clips"] == 2
    assert evaluated[0]["seconds"] > 0
    assert lines[0]["event"] == "start"


def test_without_held_out_clips_nothing_is_averaged(
    voices: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Path("val.txt").write_text("")
    with caplog.at_level(logging.WARNING, logger="svc.training"):
        result = go(voices, max_steps=2)
    assert result.best is None
    assert result.record is None
    assert "ema" not in load_checkpoint("logs/m/G_2.pth")["svc"]
    assert any("no held-out clips" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ema_decay": 1.0}, r'"train\.ema_decay" must be at least 0 and below 1, found 1\.0'),
        ({"ema_decay": -0.1}, r"ema_decay"),
        ({"val_clips": 0}, r'"train\.val_clips" must be at least 1, found 0'),
    ],
)
def test_settings_are_checked(voices: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        voices.edit(train=values)
