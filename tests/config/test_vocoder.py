from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from svc.config import (
    VocoderConfig,
    check_vocoder,
    find_template,
    load_diffusion_config,
    load_vocoder_config,
)
from svc.errors import ConfigError, MissingFileError

COMMUNITY: dict[str, Any] = {
    "resblock": "1",
    "upsample_rates": [8, 8, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4, 4],
    "upsample_initial_channel": 512,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "num_mels": 128,
    "n_fft": 2048,
    "win_size": 2048,
    "hop_size": 512,
    "sampling_rate": 44100,
    "fmin": 40,
    "fmax": 16000,
    "learning_rate": 0.0002,
    "discriminator_periods": [3, 5, 7],
}


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**COMMUNITY, **changes}))
    return path


def test_a_community_config_is_read_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_vocoder_config(write(tmp_path))
    assert config.upsample_rates == (8, 8, 2, 2, 2)
    assert config.resblock_dilation_sizes == ((1, 3, 5),) * 3
    assert (config.fmin, config.fmax, config.highest) == (40.0, 16000.0, 16000.0)
    assert not config.mini_nsf
    assert not caplog.records  # its training settings are nobody's mistake


def test_the_values_of_the_specification(shared: Path, tmp_path: Path) -> None:
    table = json.loads((shared / "spec/tables/statedict_nsf_hifigan.json").read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(table["meta"]["config"]))
    assert load_vocoder_config(path) == load_vocoder_config(write(tmp_path))


def test_other_spellings(tmp_path: Path) -> None:
    config = load_vocoder_config(write(tmp_path, resblock=2, fmax=None, mini_nsf=True))
    assert (config.resblock, config.fmax, config.highest) == (2, None, 22050.0)
    assert config.mini_nsf
    assert not config.snake
    assert load_vocoder_config(write(tmp_path, snake=True)).snake


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hop_size": 256}, r'\[8, 8, 2, 2, 2\] multiply to 512, "hop_size" is 256'),
        (
            {"upsample_kernel_sizes": [16, 16]},
            '"upsample_rates" has 5 .* "upsample_kernel_sizes" 2',
        ),
        ({"resblock_kernel_sizes": []}, '"resblock_kernel_sizes" has 0 entries'),
        ({"win_size": 4096}, '"win_size" 4096 is longer than "n_fft" 2048'),
        ({"fmax": 30000}, '"fmin" 40 and "fmax" 30000'),
        ({"fmin": 16000}, "do not lie in order"),
        ({"num_mels": 0}, '"num_mels" is 0'),
        ({"upsample_rates": [512, 0, 1, 1, 1]}, "multiply to 0"),
        ({"mini_nsf": True, "snake": True}, "both true"),
        ({"sampling_rate": "44k"}, '"sampling_rate" must be a whole number'),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(ConfigError, match=words) as caught:
        load_vocoder_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(MissingFileError, match=r"vocoder config .*config\.json is not there"):
        load_vocoder_config(path)
    for text, words in (
        ("{", "not valid JSON"),
        ("[1]", "found list"),
        ('{"train": {}, "model": {}}', "lacks resblock, upsample_rates, .*published with the weig"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words) as caught:
            load_vocoder_config(path)
        assert "\n" not in str(caught.value)


def test_voice_and_vocoder_must_speak_the_same_mels(tmp_path: Path) -> None:
    voice = load_diffusion_config(find_template("diffusion_template.yaml"))
    vocoder = load_vocoder_config(write(tmp_path))
    check_vocoder(voice, vocoder)
    check_vocoder(voice, vocoder, n_mels=128)
    slow: VocoderConfig = dataclasses.replace(vocoder, sampling_rate=32000)
    with pytest.raises(ConfigError) as caught:
        check_vocoder(voice, slow, n_mels=80)
    text = str(caught.value)
    for words in (
        str(voice.path),
        "data.sampling_rate 44100 and sampling_rate 32000",
        "mel bands 80 and num_mels 128",
    ):
        assert words in text
    assert "block_size" not in text
    assert "\n" not in text
    fine = dataclasses.replace(vocoder, hop_size=1024, upsample_rates=(16, 8, 2, 2, 2))
    with pytest.raises(ConfigError, match=r"data\.block_size 512 and hop_size 1024"):
        check_vocoder(voice, fine)
