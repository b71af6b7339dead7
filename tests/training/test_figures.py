from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.training import figures
from svc.training.journal import Journal
from svc.training.options import TrainOptions
from svc.training.synthesizer import train


def test_pictures_are_ten_by_two_inches_and_show_their_data() -> None:
    ramp = np.tile(np.arange(40, dtype=np.float32), (8, 1))
    image = figures.spectrogram_image(ramp)
    assert image.shape == (200, 1000, 3)
    assert image.dtype == np.uint8
    left, right = image[80, 120].astype(int), image[80, 700].astype(int)
    assert right[1] > left[1] + 80  # viridis: dark to bright
    flipped = figures.spectrogram_image(ramp.T.copy())
    assert flipped[40, 400, 1] > flipped[130, 400, 1]  # low bands at the bottom
    curves = figures.curves_image({"a": ramp[0], "b": -ramp[0]})
    assert curves.shape == (200, 1000, 3)
    assert len(np.unique(curves.reshape(-1, 3), axis=0)) > 3
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_pitch_is_drawn_with_gaps_on_a_logarithmic_axis() -> None:
    octaves = np.repeat(np.float32([110, 220, 440]), 20)
    gap = np.where(np.arange(60) // 20 == 1, np.float32(0), octaves)
    whole, broken = (figures.pitch_image({"recorded": track}) for track in (octaves, gap))
    assert whole.shape == (200, 1000, 3)
    blue = [(image[..., 2].astype(int) - image[..., 0] > 60) for image in (whole, broken)]
    columns = slice(430, 570)  # the middle third of the axes, where the legend is not
    assert blue[0][:, columns].any()
    assert not blue[1][:, columns].any()
    rows = [np.median(np.nonzero(blue[0][:, x])[0]) for x in (200, 500, 700)]
    assert abs((rows[0] - rows[1]) - (rows[1] - rows[2])) <= 2  # octaves are equal steps
    assert rows[0] > rows[1] > rows[2]


def read(folder: Path | str) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "audio": 0})
    accumulator.Reload()
    return accumulator


def test_events_of_work_that_is_done_again_are_hidden(tmp_path: Path) -> None:
    for first, values in ((1, (1.0, 2.0, 3.0)), (3, (30.0, 40.0))):
        time.sleep(1.01)  # TensorBoard orders files by the second in their names
        with Journal(tmp_path, first) as journal:
            for step, value in enumerate(values, start=first):
                journal.scalars({"loss": value}, step)
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("loss")] == [
        (1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0),
    ]  # fmt: skip


def test_the_log_has_one_line_per_note_and_names_what_ended_the_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new", 1)
    journal.note("歌 1")
    journal.__exit__(ValueError, ValueError("broken"), None)
    lines = (tmp_path / "new/train.log").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[1:] for line in lines] == [
        ["INFO", "歌 1"], ["INFO", "ended by ValueError: broken"],
    ]  # fmt: skip


def test_tensorboard_has_the_originals_tags(voices: Any) -> None:
    train(
        TrainOptions(
            model="m", config=voices.config_path, device="cpu", max_steps=2, log_interval=2
        )
    )

    run = read("logs/m")
    assert set(run.Tags()["scalars"]) == {
        "loss/g/total", "loss/d/total", "learning_rate", "grad_norm_d", "grad_norm_g",
        "loss/g/fm", "loss/g/mel", "loss/g/kl", "loss/g/lf0",
    }  # fmt: skip
    assert set(run.Tags()["images"]) == {
        "slice/mel_org", "slice/mel_gen", "all/mel", "all/lf0", "all/norm_lf0",
    }  # fmt: skip
    assert [event.step for event in run.Scalars("loss/g/mel")] == [1, 2]
    assert run.Scalars("learning_rate")[0].value == pytest.approx(2e-4)
    assert all(np.isfinite(run.Scalars(tag)[-1].value) for tag in run.Tags()["scalars"])
    assert (run.Images("all/mel")[0].width, run.Images("all/mel")[0].height) == (1000, 200)

    held_out = read("logs/m/eval")
    assert set(held_out.Tags()["audio"]) == {
        "gen/audio_0", "gt/audio_0", "gen/audio_1", "gt/audio_1",
    }  # fmt: skip
    assert set(held_out.Tags()["images"]) == {
        "gen/mel", "gt/mel",
        "validation/mel_0", "validation/f0_0", "validation/mel_1", "validation/f0_1",
    }  # fmt: skip
    scalars = {tag.removeprefix("validation/") for tag in held_out.Tags()["scalars"]}
    assert scalars >= {"mel", "stft", "loudness_db", "voicing_error"}
    losses = {f"{group}/{name}" for group in ("loss", "raw_loss") for name in ("mel", "kl", "lf0")}
    assert scalars >= losses
    assert held_out.Audio("gt/audio_0")[0].sample_rate == 8000
    assert held_out.Audio("gen/audio_0")[0].length_frames == 48 * 64
    assert [event.step for event in held_out.Audio("gen/audio_0")] == [2]
    assert "eval" not in {path.name for path in Path("logs").iterdir()}
