from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from svc.errors import CheckpointError, ConfigError, MissingFileError
from svc.training.rundir import (
    Start,
    check_same_voice,
    cut_off_saves,
    find_start,
    load_pair,
    publish_config,
    set_aside,
)


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.save({"model": {"a": torch.zeros(1)}}, folder / name)


def resumed(folder: Path, step: int) -> Start:
    return Start("resume", folder / f"G_{step}.pth", folder / f"D_{step}.pth", step)


def test_an_empty_or_absent_folder_is_a_fresh_start(tmp_path: Path) -> None:
    assert find_start(tmp_path / "none", "auto") == Start("fresh")
    assert find_start(tmp_path, "auto") == find_start(tmp_path, "never") == Start("fresh")


def test_the_highest_step_counts_by_number_and_other_names_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "logs9999"
    touch(folder, "G_900.pth", "D_900.pth", "G_1000.pth", "D_1000.pth", "G_0.pth", "D_0.pth")
    touch(folder, "G_8000_release.pth", "G_best.pth", "Gold_7000.pth", "G_9000.pth.bak")
    assert find_start(folder, "auto") == resumed(folder, 1000)
    assert find_start(folder, "never").kind == "base"


def test_base_models(tmp_path: Path) -> None:
    touch(tmp_path, "G_0.pth", "D_0.pth")
    base = Start("base", tmp_path / "G_0.pth", tmp_path / "D_0.pth")
    assert find_start(tmp_path, "auto") == find_start(tmp_path, "never") == base
    (tmp_path / "D_0.pth").unlink()
    with pytest.raises(CheckpointError, match=r"no D_0\.pth beside it.*--force"):
        find_start(tmp_path, "auto")
    assert find_start(tmp_path, "auto", force=True).discriminator is None


def test_a_generator_without_its_discriminator_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "G_800.pth", "D_800.pth", "G_1600.pth")
    with pytest.raises(
        CheckpointError,
        match=r"G_1600\.pth has no D_1600\.pth .*newest D there is D_800.*--resume .*G_800\.pth",
    ):
        find_start(tmp_path, "auto")
    for file in tmp_path.glob("D_*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"no D there at all.*--resume never"):
        find_start(tmp_path, "auto")


def test_a_save_cut_off_before_its_generator_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "G_800.pth", "D_800.pth", "D_1600.pth")
    assert find_start(tmp_path, "auto") == resumed(tmp_path, 800)
    assert cut_off_saves(tmp_path) == [tmp_path / "D_1600.pth"]
    touch(tmp_path, "D_2400.pth")
    with pytest.raises(CheckpointError, match=r"D_1600\.pth, D_2400\.pth without the G files"):
        find_start(tmp_path, "auto")
    assert find_start(tmp_path, str(tmp_path / "G_800.pth")) == resumed(tmp_path, 800)


def test_a_first_save_cut_off_is_a_fresh_start(tmp_path: Path) -> None:
    touch(tmp_path, "D_4.pth")
    assert find_start(tmp_path, "auto") == Start("fresh")


def test_resume_from_a_path(tmp_path: Path) -> None:
    touch(tmp_path, "G_800.pth", "D_800.pth", "G_1600.pth", "D_1600.pth", "other.pth", "G_0.pth")
    assert find_start(tmp_path / "x", str(tmp_path / "G_800.pth")) == resumed(tmp_path, 800)
    assert find_start(tmp_path / "x", str(tmp_path)) == resumed(tmp_path, 1600)
    with pytest.raises(MissingFileError, match=r"G_900\.pth is not there"):
        find_start(tmp_path, str(tmp_path / "G_900.pth"))
    for name in ("other.pth", "D_800.pth"):
        with pytest.raises(CheckpointError, match=r"name must be G_<step>\.pth"):
            find_start(tmp_path, str(tmp_path / name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="holds no G_"):
        find_start(tmp_path, str(tmp_path / "empty"))


@pytest.mark.parametrize("kind", ["G", "D"])
def test_an_unreadable_newest_checkpoint_names_the_last_good_one(tmp_path: Path, kind: str) -> None:
    for step in (800, 1600, 2400):
        touch(tmp_path, f"G_{step}.pth", f"D_{step}.pth")
    for name in ("D_1600.pth", f"{kind}_2400.pth"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(
        CheckpointError, match=rf"{kind}_2400\.pth.*--resume .*G_800\.pth"
    ) as caught:
        load_pair(find_start(tmp_path, "auto"))
    assert "\n" not in str(caught.value)


def test_a_file_without_a_model_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "D_8.pth")
    torch.save({"weights": 1}, tmp_path / "G_8.pth")
    with pytest.raises(CheckpointError, match=r'G_8\.pth: holds no "model".*--resume never'):
        load_pair(find_start(tmp_path, "auto"))


def test_the_config_is_copied_as_it_is_and_an_earlier_one_kept(voices: Any) -> None:
    run_dir = Path("logs/m")
    text = voices.config_path.read_text() + "\n\n"
    voices.config_path.write_text(text)
    assert publish_config(voices.config, run_dir) is None
    assert (run_dir / "config.json").read_text() == text
    assert publish_config(voices.config, run_dir) is None
    for number in (1, 2):
        before = (run_dir / "config.json").read_text()
        voices.edit(train={"batch_size": 2 + number})
        backup = publish_config(voices.config, run_dir)
        assert backup == run_dir / f"config.{number}.json"
        assert backup.read_text() == before
        assert (
            json.loads((run_dir / "config.json").read_text())["train"]["batch_size"] == 2 + number
        )
    assert not list(run_dir.glob(".tmp*"))


def test_another_model_section_is_refused_with_what_differs(voices: Any) -> None:
    model, speakers = voices.config.to_dict()["model"], voices.config.spk
    check_same_voice(voices.config, model, speakers, Path("G_8.pth"))
    check_same_voice(voices.config, None, None, Path("G_8.pth"))
    # Keys that change nothing in the nets may differ, and so may the absence of a default.
    check_same_voice(voices.config, {**model, "n_layers_q": 9}, speakers, Path("G_8.pth"))
    without = {key: value for key, value in model.items() if key != "vol_embedding"}
    check_same_voice(voices.config, without, speakers, Path("G_8.pth"))
    now = voices.edit(model={"filter_channels": 32, "vol_embedding": True})
    with pytest.raises(
        ConfigError, match=r"filter_channels 16 -> 32; vol_embedding False -> True.*--resume never"
    ):
        check_same_voice(now, model, speakers, Path("G_8.pth"))
    with pytest.raises(ConfigError, match=r"G_8\.pth was trained for the speakers .*carol"):
        check_same_voice(now, None, {"carol": 0}, Path("G_8.pth"))


def test_later_checkpoints_are_set_aside(tmp_path: Path) -> None:
    names = [f"{kind}_{step}.pth" for kind in "GD" for step in (0, 8, 16, 24)]
    touch(tmp_path, *names, "G_best.pth")
    assert set_aside(tmp_path, 24) is None
    folder = set_aside(tmp_path, 8)
    assert folder == tmp_path / "earlier_1"
    assert sorted(file.name for file in folder.iterdir()) == [
        "D_16.pth", "D_24.pth", "G_16.pth", "G_24.pth",
    ]  # fmt: skip
    assert set_aside(tmp_path, 0) == tmp_path / "earlier_2"
    left = sorted(file.name for file in tmp_path.glob("*.pth"))
    assert left == ["D_0.pth", "G_0.pth", "G_best.pth"]
