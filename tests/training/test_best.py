"""Which evaluation was the best, and the file that keeps what sang it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from svc.checkpoint import find_latest, list_checkpoints, load_checkpoint, prune, save_checkpoint
from svc.training.best import BEST, BestFile, Contest, Record, make_room, outdated, read_best
from svc.training.journal import Journal
from svc.training.rundir import Start
from svc.training.stopping import StopSignal


def enter(contest: Contest, *scores: float, measure: str = "a") -> list[bool]:
    return [contest.enter(Record(step, score, measure)) for step, score in enumerate(scores, 1)]


def voice(**extra: Any) -> dict[str, Any]:
    return {"model": {"weight": torch.zeros(2)}, "iteration": 1, "svc": extra}


def test_the_lowest_score_is_the_best_and_evaluations_since_are_counted() -> None:
    contest = Contest(patience=2)
    assert enter(contest, 3.0, 2.0, 2.0, 2.5) == [True, True, False, False]
    assert contest.best == Record(2, 2.0, "a")
    assert (contest.since, contest.over) == (2, True)
    assert enter(contest, 1.0) == [True]
    assert (contest.since, contest.over) == (0, False)
    assert not Contest().over


def test_what_is_no_number_is_never_the_best() -> None:
    contest = Contest(patience=1)
    assert enter(contest, float("nan"), float("inf")) == [False, False]
    assert contest.best is None
    assert contest.over


def test_scores_on_other_clips_begin_anew() -> None:
    contest = Contest(patience=1)
    enter(contest, 1.0)
    assert enter(contest, 5.0, measure="b") == [True]
    assert contest.best == Record(1, 5.0, "b")


def test_it_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    contest = Contest(patience=3)
    enter(contest, 2.0, 3.0, 4.0)
    contest.missed = True
    save_checkpoint({"best": contest.state_dict()}, tmp_path / "a.pth")
    again = Contest(patience=3)
    again.load_state_dict(load_checkpoint(tmp_path / "a.pth")["best"])
    assert (again.best, again.since, again.missed) == (contest.best, 2, True)
    enter(again, 2.5)
    assert again.over
    assert not again.missed
    for strange in (None, 7, {}, {"best": {"step": "x"}, "since": 0}):
        other = Contest()
        other.load_state_dict(strange)
        assert other.best is None


def test_waiting_too_long_ends_the_run_once(tmp_path: Path) -> None:
    stop, contest = StopSignal(), Contest(patience=2)
    with Journal(tmp_path, 1) as journal:
        enter(contest, 1.0, 2.0)
        contest.stop_waiting(stop, journal)
        assert stop.name is None
        contest.enter(Record(9, 3.0, "a"))
        contest.stop_waiting(stop, journal)
        assert stop.name == "patience"
        stop.name = "SIGINT"  # what ends a run first stays the reason
        contest.stop_waiting(stop, journal)
        assert stop.name == "SIGINT"
    log = (tmp_path / "train.log").read_text()
    assert log.count("2 evaluations without a better score than 1 at step 1") == 1


def test_the_file_is_replaced_by_better_ones_of_any_call(tmp_path: Path) -> None:
    file = BestFile(tmp_path)
    assert file.record is None
    file.save(voice(step=4, best={"scores": {"mel": 2.0}}), Record(4, 2.0, "a"))
    again = BestFile(tmp_path)
    assert again.record == Record(4, 2.0, "a")
    assert not Record(8, 2.0, "a").beats(again.record)
    assert Record(8, 1.9, "a").beats(again.record)
    assert Record(8, 9.0, "b").beats(again.record)
    entry = load_checkpoint(tmp_path / BEST)["svc"]
    assert entry["step"] == 4
    assert entry["best"] == {"step": 4, "score": 2.0, "measure": "a", "scores": {"mel": 2.0}}


def test_damage_or_another_file_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / BEST
    save_checkpoint({"model": {}}, path)  # of another program
    assert read_best(path) is None
    path.write_bytes(b"half a file")
    assert read_best(path) is None
    assert BestFile(tmp_path).record is None


def test_no_start_and_no_pruning_takes_it_for_a_step(tmp_path: Path) -> None:
    BestFile(tmp_path).save(voice(), Record(4, 2.0, "a"))
    for step in (1, 2, 3):
        save_checkpoint(voice(), tmp_path / f"G_{step}.pth")
    assert find_latest(tmp_path, "G") == tmp_path / "G_3.pth"
    assert len(list_checkpoints(tmp_path, "G")) == 3
    prune(tmp_path, "G", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["G_3.pth", BEST]


@pytest.mark.parametrize(
    ("kind", "step", "stays", "moved"),
    [
        ("resume", 8, True, False),
        ("resume", 4, True, False),
        # After a kill: of a step that is done again. A start from an earlier step, which moves
        # the later checkpoints, takes it along.
        ("resume", 2, False, False),
        ("base", 0, False, True),
        ("fresh", 0, False, True),
    ],
)
def test_what_a_start_does_with_the_best_of_before(
    tmp_path: Path, kind: Any, step: int, stays: bool, moved: bool
) -> None:
    BestFile(tmp_path).save(voice(), Record(4, 2.0, "a"))
    start = Start(kind, step=step)
    assert outdated(tmp_path, start) == ([] if stays else [tmp_path / BEST])
    notes = make_room(tmp_path, start)
    assert (tmp_path / BEST).is_file() == (not moved)
    assert (tmp_path / "earlier_1" / BEST).is_file() == moved
    assert bool(notes) == moved
    assert list(itertools.chain(outdated(tmp_path / "nowhere", start))) == []
