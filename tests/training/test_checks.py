from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.errors import ConfigError, DatasetError, MissingFileError, SvcError
from svc.training.checks import read_lists, tell


def refuse(voices: Any, message: str, kind: type[SvcError] = DatasetError) -> None:
    with pytest.raises(kind, match=message) as caught:
        read_lists(voices.config)
    assert "\n" not in str(caught.value)


def test_a_good_data_set_passes(voices: Any) -> None:
    train, validation = read_lists(voices.config)
    assert len(train.paths) == 8
    assert train.frames == [60, 45, 70, 52] * 2
    assert validation.frames == [48, 48]


def test_files_of_the_original_without_side_cars_pass(voices: Any) -> None:
    for path in voices.root.rglob("*.meta.json"):
        path.unlink()
    training, _ = read_lists(voices.config)
    assert len(training.paths) == 8
    (note,) = (text for text in training.notes if "side-car" in text)
    assert note.startswith("train.txt: 8 clips have no side-car (.meta.json)")
    # Of them the lengths are compared, by the headers of the files.
    path = voices.files()[1]
    np.save(f"{path}.f0.npy", np.ones((2, 30)))
    refuse(voices, r"1\.wav has 45 frames of 64 samples and 30 of f0: its feature files belong to")
    np.save(f"{path}.f0.npy", np.ones((2, 47)).astype(object), allow_pickle=True)
    assert len(read_lists(voices.config)[0].paths) == 8
    Path(f"{path}.f0.npy").write_bytes(b"\x93NUMPY")
    refuse(voices, r"1\.wav\.f0\.npy: not a readable feature file")


def test_missing_features_say_how_to_make_them(voices: Any) -> None:
    for path in voices.files():
        path.with_name(path.name + ".f0.npy").unlink()
    refuse(
        voices, r"4 feature files of train\.txt are missing: .*f0\.npy.* 1 more; .*svc preprocess"
    )


def test_missing_volume_counts_only_with_a_volume_embedding(voices: Any) -> None:
    for path in voices.root.rglob("*.vol.npy"):
        path.unlink()
    read_lists(voices.config)
    voices.edit(model={"vol_embedding": True})
    refuse(voices, r"8 feature files .*vol\.npy")


def test_empty_and_missing_lists(voices: Any) -> None:
    Path("val.txt").write_text("")
    assert read_lists(voices.config)[1].paths == []
    Path("train.txt").write_text("\n")
    refuse(voices, r"train\.txt is empty")
    Path("train.txt").unlink()
    refuse(voices, r"train\.txt is not there", MissingFileError)


def test_unknown_speaker_folder(voices: Any) -> None:
    voices.edit(spk={"alice": 0, "carol": 1})
    refuse(voices, r"folder bob, unknown to the config; its speakers are: alice, carol")


def test_speaker_id_without_a_row(voices: Any) -> None:
    voices.edit(model={"n_speakers": 1})
    refuse(voices, r'"bob" has id 1 and "model.n_speakers" is 1', ConfigError)


def test_missing_clip(voices: Any) -> None:
    voices.files()[1].unlink()
    refuse(voices, r"1 of 8 clips of train\.txt are not there: .*1\.wav")


def test_wrong_rate(voices: Any) -> None:
    write_audio(voices.files()[1], np.zeros(9000, dtype=np.float32), 16000)
    refuse(voices, r"1\.wav has 16000 Hz and the config says 8000 Hz; run  svc resample  and  svc")


def test_changed_recordings_are_counted(voices: Any) -> None:
    first, *others = (voices.files(name)[1] for name in ("alice", "bob"))
    write_audio(first, np.zeros(800, dtype=np.float32), 8000)
    refuse(
        voices, r"alice/1\.wav has changed since its features were made; run  svc preprocess --s"
    )
    for path in others:
        write_audio(path, np.zeros(800, dtype=np.float32), 8000)
    refuse(
        voices,
        r"^train\.txt: 2 of 8 clips \(.*alice/1\.wav, .*bob/1\.wav\) have changed since their "
        r"features were made; run  svc preprocess --stage features$",
    )


def test_several_kinds_of_trouble_are_one_line(voices: Any) -> None:
    write_audio(voices.files()[0], np.zeros(800, dtype=np.float32), 8000)
    for path in voices.files("bob"):
        meta = Path(f"{path}.meta.json")
        meta.write_text(meta.read_text().replace("whisper-ppg-tiny", "vec768l12"))
    refuse(
        voices,
        r"^train\.txt: 1 of 8 clips \(\S*alice/0\.wav\) has changed since its features were made; "
        r'4 of 8 clips \(.* and 1 more\): their units were made with "vec768l12", the config says '
        r'"whisper-ppg-tiny"; run  svc preprocess --stage features$',
    )


def test_mixtures_are_told_and_allowed(voices: Any) -> None:
    def change(path: Path, part: str, key: str, value: Any) -> None:
        meta = Path(f"{path}.meta.json")
        content = json.loads(meta.read_text())
        content[part][key] = value
        meta.write_text(json.dumps(content))

    change(voices.files()[0], "f0", "edited", True)
    change(voices.files()[0], "f0", "f0_predictor", None)
    assert read_lists(voices.config)[0].warnings == []
    change(voices.files()[1], "f0", "f0_predictor", "rmvpe")
    for index, name in enumerate("ab"):
        change(voices.files("bob")[index], "units", "encoder_file", name * 32)
    first, second = read_lists(voices.config)[0].warnings
    assert "different predictors (fcpe 6, rmvpe 1)" in first
    assert "--f0_predictor NAME" in first
    assert "made with 2 different weight files of the encoder" in second


def test_clips_that_are_too_short_are_left_out(make_voices: Callable[..., Any]) -> None:
    """spec_core 10, D16: as long as each speaker keeps one."""
    voices = make_voices(lengths=(60, 19, 20, 12, 8))
    training, validation = read_lists(voices.config)
    assert [path.name for path in training.paths] == ["0.wav", "2.wav"] * 2
    assert training.frames == [60, 20] * 2
    assert [path.name for path in training.dropped] == ["1.wav", "3.wav"] * 2
    (warning,) = training.warnings
    assert warning.startswith(
        "4 of 8 clips of train.txt are shorter than the 0.16 s that are trained at a time "
        "(train.segment_size) and left out: "
    )
    assert warning.endswith(" and 1 more")
    assert validation.paths == []
    assert len(validation.dropped) == 2
    told: list[tuple[str, int]] = []
    tell(lambda text, level=20: told.append((text, level)), training, validation, training)
    assert len(told) == len(set(told))
    assert (warning, logging.WARNING) in told
    lines = Path("train.txt").read_text().splitlines()
    Path("train.txt").write_text("\n".join(lines[:4] + lines[5:6] + lines[7:]))
    refuse(
        voices,
        r'train\.txt: all 2 clips of "bob" are shorter than the 0\.16 s that are trained at a time, '
        r"the first: .*bob/1\.wav; join them",
    )


def test_width_of_units(voices: Any) -> None:
    voices.edit(model={"ssl_dim": 768, "speech_encoder": "vec768l12"})
    for path in voices.root.rglob("*.meta.json"):
        path.unlink()
    refuse(voices, r"384 wide and the config says 768 \(speech_encoder vec768l12\)")


def test_an_encoder_that_the_model_cannot_take(voices: Any) -> None:
    fused = "vec768l12+whisper-ppg-tiny"
    for name, width, fitting in (("vec256l9", 256, 384), (fused, 1152, 384)):
        voices.edit(model={"speech_encoder": name})
        refuse(
            voices,
            rf'config\.json asks for the speech encoder "{re.escape(name)}", whose units are {width} '
            rf'wide, but the model takes units {fitting} wide \("model\.ssl_dim"\).*svc preprocess',
            ConfigError,
        )


def test_features_of_another_encoder(voices: Any) -> None:
    voices.edit(model={"speech_encoder": "whisper-ppg-base", "ssl_dim": 512})
    refuse(voices, "whisper-ppg-tiny")
