"""Which file a diffusion run begins from, which files it deletes (spec_diffusion 11)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.errors import CheckpointError, MissingFileError
from svc.training.diffusion_files import (
    Best,
    Start,
    find_start,
    list_models,
    load_start,
    prune,
    read_best,
    save_best,
    set_aside,
)

STATE = {
    "unit_embed.weight": torch.zeros(2, 3),
    "decoder.denoise_fn.output_projection.weight": torch.zeros(4, 2, 1),
}


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint({"global_step": step, "model": STATE}, folder / f"model_{step}.pt")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.pt")}


def test_the_newest_is_the_highest_number_in_the_folder_itself(tmp_path: Path) -> None:
    """The original's rule, with what it would count as 0 left out."""
    assert find_start(tmp_path / "nowhere", "auto") == Start("fresh")
    assert find_start(tmp_path, "auto") == Start("fresh")
    write(tmp_path / "best", 90)
    (tmp_path / "model_best.pt").write_bytes(b"")
    (tmp_path / "model_8.pth").write_bytes(b"")
    (tmp_path / "model_-5.pt").write_bytes(b"")
    (tmp_path / ".tmp-1.pt").write_bytes(b"")
    assert find_start(tmp_path, "auto") == Start("fresh")
    write(tmp_path, 0)
    assert find_start(tmp_path, "auto") == Start("base", tmp_path / "model_0.pt")
    write(tmp_path, 9, 10, 100)
    assert find_start(tmp_path, "auto") == Start("resume", tmp_path / "model_100.pt")
    assert find_start(tmp_path, "never") == Start("base", tmp_path / "model_0.pt")
    assert list(list_models(tmp_path)) == [0, 9, 10, 100]


def test_a_path_can_be_given(tmp_path: Path) -> None:
    write(tmp_path, 0, 20, 30)
    for given, kind, name in (
        ("model_20.pt", "resume", "model_20.pt"),
        ("model_0.pt", "base", "model_0.pt"),
        ("", "resume", "model_30.pt"),
    ):
        assert find_start(Path("other"), str(tmp_path / given)) == Start(
            kind,  # type: ignore[arg-type]
            tmp_path / name,
        )
    (tmp_path / "G_800.pth").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for given, error, text in (
        ("model_7.pt", MissingFileError, r"model_7\.pt is not there; give auto, never"),
        ("G_800.pth", CheckpointError, r"the name must be model_<step>\.pt"),
        ("empty", MissingFileError, "the folder holds no model_"),
    ):
        with pytest.raises(error, match=text):
            find_start(tmp_path, str(tmp_path / given))


def test_an_unreadable_one_names_the_last_good_one(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 20, 30, 40)
    for step in (30, 40):
        path = tmp_path / f"model_{step}.pt"
        path.write_bytes(path.read_bytes()[:700])
    start = find_start(tmp_path, "auto")
    with pytest.raises(
        CheckpointError, match=r"model_40\.pt: not a readable .* --resume .*model_20\.pt$"
    ) as caught:
        load_start(start)
    assert "\n" not in str(caught.value)
    for step in (10, 20):
        (tmp_path / f"model_{step}.pt").unlink()
    with pytest.raises(CheckpointError, match=r"no older one; restore .* --resume never"):
        load_start(start)  # a base model is no older state of this run
    with pytest.raises(CheckpointError, match=r"model_40\.pt"):
        load_start(Start("base", tmp_path / "model_40.pt"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"model": {"emb_g.weight": torch.zeros(2)}, "global_step": 7}, "a synthesizer's weights"),
        ({"model": STATE}, 'holds no "global_step", so training cannot go on'),
        ({"model": STATE, "global_step": "7"}, 'holds no "global_step"'),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: dict[str, Any], text: str) -> None:
    save_checkpoint(content, tmp_path / "model_7.pt")
    with pytest.raises(CheckpointError, match=text):
        load_start(find_start(tmp_path, "auto"))


def test_a_base_needs_no_step(tmp_path: Path) -> None:
    save_checkpoint({"model": STATE}, tmp_path / "model_0.pt")
    assert list(load_start(find_start(tmp_path, "auto"))) == ["model"]


@pytest.mark.parametrize("keep", [1, 2])
def test_deletion_by_the_originals_defaults(tmp_path: Path, keep: int) -> None:
    """A save each 2000 steps, one kept each 5000: multiples of 10000 and the newest survive."""
    (tmp_path / "model_0.pt").write_bytes(b"")
    for step in range(2000, 24001, 2000):
        (tmp_path / f"model_{step}.pt").write_bytes(b"")
        prune(tmp_path, keep=keep, force_save=5000)
        newest = set(range(2000, step + 1, 2000)[-keep:])
        assert set(list_models(tmp_path)) == {0} | newest | {s for s in (10000, 20000) if s <= step}


def test_saves_between_the_intervals_do_not_pile_up(tmp_path: Path) -> None:
    write(tmp_path, 100, 117, 131, 200)
    write(tmp_path / "best", 131)
    assert prune(tmp_path, keep=0, force_save=100) == []
    deleted = prune(tmp_path, keep=1, force_save=100)
    assert [path.name for path in deleted] == ["model_117.pt", "model_131.pt"]
    assert names(tmp_path) == {"model_100.pt", "model_200.pt", "best/model_131.pt"}


def test_the_best_one(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    content = {"global_step": 20, "model": STATE, "svc": {"step": 20}}
    for step, loss in ((20, 0.5), (30, 0.25)):
        best = Best(tmp_path / f"best/model_{step}.pt", step, loss, "abc")
        save_best(tmp_path, best, content, "spk: {}\n")
        assert read_best(tmp_path) == best
    assert names(tmp_path) == {"best/model_30.pt"}
    assert (tmp_path / "best/config.yaml").read_text() == "spk: {}\n"
    assert load_checkpoint(tmp_path / "best/model_30.pt")["svc"] == {
        "step": 20, "validation_loss": 0.25, "measure": "abc",
    }  # fmt: skip
    assert content["svc"] == {"step": 20}
    # A damaged one is none; one that says nothing of its loss too.
    (tmp_path / "best/model_30.pt").write_bytes(b"?")
    assert read_best(tmp_path) is None
    write(tmp_path / "best", 30)
    assert read_best(tmp_path) is None


def test_later_models_are_set_aside(tmp_path: Path) -> None:
    write(tmp_path, 0, 10, 20, 30)
    write(tmp_path / "best", 20)
    assert set_aside(tmp_path, 30) is None
    assert set_aside(tmp_path, 10) == tmp_path / "earlier_1"
    assert names(tmp_path) == {
        "model_0.pt", "model_10.pt", "earlier_1/model_20.pt", "earlier_1/model_30.pt",
        "earlier_1/best/model_20.pt",
    }  # fmt: skip
    assert set_aside(tmp_path, 0) == tmp_path / "earlier_2"
    assert list(list_models(tmp_path)) == [0]
