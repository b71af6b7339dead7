from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.errors import ConfigError, DatasetError, MissingFileError, SvcError
from svc.training.checks import read_lists


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
    assert len(read_lists(voices.config)[0].paths) == 8


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


def test_wrong_rate_and_short_clip(voices: Any, make_voices: Callable[..., Any]) -> None:
    write_audio(voices.files()[1], np.zeros(9000, dtype=np.float32), 16000)
    refuse(voices, r"1\.wav has 16000 Hz and the config says 8000")
    write_audio(voices.files()[1], np.zeros(800, dtype=np.float32), 8000)
    refuse(voices, r"1\.wav is 0\.10 s long and training needs 0\.16 s")


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
