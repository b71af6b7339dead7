"""Mixes of speakers through the converter and the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio
from svc.conversion import InferOptions
from svc.conversion.mix_files import parse_mix
from svc.conversion.sources import ArraySource
from svc.conversion.speaker_mix import SpeakerMix
from svc.errors import ConfigError
from svc.f0.voice_range import VoiceRange

SR = 44100
SPEAKERS = {"alice": 0, "bob": 1}
JUMP = {"alice": [[0, 0.5, 1, 1], [0.5, 1, 0, 0]], "bob": [[0, 0.5, 0, 0], [0.5, 1, 1, 1]]}


@pytest.fixture
def converter(make_converter: Any) -> Any:
    """Its speakers sound different: an untrained net hardly heeds them, and a loud one is clipped."""
    made = make_converter()
    net = made.voice.synthesizer
    with torch.no_grad():
        net.dec.conv_post.weight_g.mul_(0.1)
        net.dec.cond.weight.mul_(300.0)
    return made


@pytest.fixture
def jump(tmp_path: Path) -> SpeakerMix:
    path = tmp_path / "jump.json"
    path.write_text(json.dumps(JUMP))
    return parse_mix(path, SPEAKERS)


def test_a_mix_of_one_speaker_is_that_speaker(converter: Any, song: Any) -> None:
    wav = song([(0.6, 0.5)])
    alone = converter.convert(wav, SR, "bob")
    for text in ("bob=1", "bob=0.2", "alice=0,bob=3"):
        np.testing.assert_array_equal(converter.convert(wav, SR, parse_mix(text, SPEAKERS)), alone)


def test_an_even_mix_is_neither_of_both(converter: Any, song: Any) -> None:
    wav = song([(0.6, 0.5)])
    mixed = converter.convert(wav, SR, parse_mix("alice=1,bob=1", SPEAKERS))
    again = converter.convert(wav, SR, parse_mix("alice=7,bob=7", SPEAKERS))
    np.testing.assert_array_equal(mixed, again)
    assert np.isfinite(mixed).all()
    for name in SPEAKERS:
        assert np.abs(converter.convert(wav, SR, name) - mixed).max() > 1e-3


def test_one_voice_hands_over_to_the_other(converter: Any, song: Any, jump: SpeakerMix) -> None:
    """Whichever way the song is cut, and however far its frames are from the cuts."""
    wav = song([(1.5, 0.5), (0.7, 0.0), (2.3, 0.4)])
    options = InferOptions(noise_scale=0.0, clip_seconds=0.9)
    handed = converter.convert(wav, SR, jump, options)
    first = converter.convert(wav, SR, "alice", options)
    second = converter.convert(wav, SR, "bob", options)
    middle, reach = wav.size // 2, SR // 5
    before, after = slice(0, middle - reach), slice(middle + reach, None)
    np.testing.assert_allclose(handed[before], first[before], atol=1e-5)
    np.testing.assert_allclose(handed[after], second[after], atol=1e-5)
    assert np.abs(first - second)[after].max() > 1e-3


def test_clusters_belong_to_one_speaker(make_converter: Any, song: Any, jump: SpeakerMix) -> None:
    with pytest.raises(ConfigError, match=r"-cr/--cluster_infer_ratio and -usm"):
        make_converter().convert(song([(0.2, 0.5)]), SR, jump, InferOptions(cluster_ratio=0.5))


def test_the_range_of_a_mix_lies_between_those_of_its_voices(
    converter: Any, song: Any, jump: SpeakerMix
) -> None:
    low = VoiceRange(60.0, tuple(np.geomspace(90, 200, 7)))
    high = VoiceRange(60.0, tuple(np.geomspace(300, 700, 7)))
    ranges = {"alice": low, "bob": high}
    converter._voice = dataclasses.replace(converter.voice, ranges=ranges)
    wav = song([(0.6, 0.5)])
    shifts = {}
    for name, singer in {"alice": "alice", "bob": "bob", "mix": jump}.items():
        options = InferOptions(fit_to_voice="semitones")
        shifts[name] = converter.fit_key(ArraySource(wav, SR), singer, options).options.transpose
    assert shifts["alice"] < shifts["mix"] < shifts["bob"]
    converter._voice = dataclasses.replace(converter.voice, ranges={"alice": low})
    with pytest.raises(ConfigError, match='"bob" sings'):
        converter.fit_key(ArraySource(wav, SR), jump, InferOptions(fit_to_voice="octaves"))


def test_the_command_sings_a_mix(
    run: Callable[..., Any], work: Path, save_voice: Any, make_config: Any, stub_encoder: None
) -> None:
    config = dataclasses.replace(make_config(n_speakers=2), spk=SPEAKERS)
    Path("two").mkdir()
    model = str(save_voice(Path("two"), config))
    done = run("-n", "song", "-m", model, "-usm", "--spk_mix", "alice=0.7,bob=0.3", "-wf", "wav")
    assert done.code == 0, done.err
    result = Path("results/song_0key_spk_mix_sovits_pm.wav")
    mixed, _ = read_audio(result)
    assert np.abs(mixed).max() > 1e-3
    result.unlink()
    Path("spkmix.json").write_text(json.dumps(JUMP))
    assert run("-n", "song", "-m", model, "-usm", "-wf", "wav").code == 0
    assert result.is_file()
    Path("spkmix.json").write_text(json.dumps({"carol": [[0, 1, 1, 1]]}))
    assert "carol" in run("-n", "song", "-m", model, "-usm").error
    Path("spkmix.json").unlink()
    assert "--spk_mix alice=0.7,bob=0.3" in run("-n", "song", "-m", model, "-usm").error
