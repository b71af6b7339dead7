"""Pitch against known pitch: glides made here, and notes that people sang."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from svc.audio.io import read_audio
from svc.audio.pitch import cents
from svc.f0 import F0Predictor, build_f0_predictor
from svc.f0.swift import swift_asset

Wave = npt.NDArray[np.float32]
# crepe is crepe-tiny with a larger net, fifteen times as slow; rmvpe has no weights here.
NAMES = ["pm", "dio", "harvest", "crepe-tiny", "fcpe"]
if swift_asset() is not None:
    NAMES += ["swift", "ensemble"]
STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# Clean takes in tune. Left out: bent and unstable ones, B3-5 (sung a quarter-tone sharp), D3-3 (dio
# hears an octave and a fifth below).
MARTIN = ("D2-3", "F2", "G#2-2", "D#3-4", "E3-3", "G3-3", "A3-4", "A4-4")
CHENGU = (36, 44, 48, 54, 60, 66, 72, 80)


@lru_cache(maxsize=8)
def predictor(name: str) -> F0Predictor:
    return build_f0_predictor(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("descending", [False, True])
def test_a_glide_over_an_octave(voice: Callable[..., Wave], name: str, descending: bool) -> None:
    """220-440 Hz in 3 s: median error below 10 cents (measured 1.7-3.3), nearly all voiced, no
    octave errors.
    """
    pitch = 220.0 * 2.0 ** (np.arange(3 * 44100) / (3 * 44100))
    if descending:
        pitch = pitch[::-1].copy()
    wav = voice(pitch)
    track = predictor(name)(wav)
    assert len(track) == len(wav) // 512
    truth = pitch[np.arange(len(track)) * 512]
    error = np.abs(cents(track.f0, truth))[track.uv > 0]
    assert track.uv.mean() > 0.95
    assert np.median(error) < 10
    assert np.mean(error > 300) < 0.01


def some(notes: tuple[object, ...]) -> list[tuple[str, object]]:
    """Every note for every predictor, every third for harvest, which takes a second per note."""
    return [(name, note) for name in NAMES for note in (notes[::3] if name == "harvest" else notes)]


@pytest.mark.parametrize(("name", "midi"), some(CHENGU))
def test_notes_of_chengu(shared: Path, name: str, midi: int) -> None:
    """Solfege syllables on known MIDI notes: the median pitch is within 50 cents (measured -8 to
    +20).
    """
    files = list((shared / "audio" / "singing" / "chengu").glob(f"note{midi:03}-*.flac"))
    assert len(files) == 1
    check_note(name, files[0], midi)


@pytest.mark.parametrize(("name", "note"), some(MARTIN))
def test_notes_of_martin(shared: Path, name: str, note: str) -> None:
    """The vowel a on known notes: within 50 cents (measured -20 to +7)."""
    file = shared / "audio" / "singing" / "martin" / f"note_{note.replace('#', 's')}.flac"
    match = re.match(r"([A-G])(#?)(\d)", note)
    assert match is not None
    # This set counts octaves from A: its A3 is the A below its C3.
    octave = int(match[3]) - (match[1] in "AB")
    check_note(name, file, 12 * (octave + 1) + STEPS[match[1]] + bool(match[2]))


def check_note(name: str, file: Path, midi: int) -> None:
    wav, sr = read_audio(file)
    assert sr == 44100
    track = predictor(name)(wav)
    voiced = track.f0[track.uv > 0]
    assert len(voiced) > 0.4 * len(track)
    expected = 440.0 * 2.0 ** ((midi - 69) / 12)
    assert abs(1200 * np.log2(np.median(voiced) / expected)) < 50


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("sr", "hop"), [(16000, 160), (24000, 256), (48000, 480)])
def test_other_rates_and_hops(voice: Callable[..., Wave], name: str, sr: int, hop: int) -> None:
    wav = voice(np.full(sr, 330.0), sr)
    track = build_f0_predictor(name, sampling_rate=sr, hop_length=hop)(wav)
    assert len(track) == sr // hop
    assert abs(1200 * np.log2(np.median(track.f0[track.uv > 0]) / 330)) < 10


@pytest.mark.parametrize("name", NAMES)
def test_voiced_and_unvoiced_parts(voice: Callable[..., Wave], name: str) -> None:
    """Tone, silence, tone: uv follows within two frames, and the gap of f0 is filled by a straight
    line.
    """
    pitch = np.repeat([200.0, 300.0, 300.0], 44100)
    wav = voice(pitch)
    wav[44100 : 2 * 44100] = 0
    track = predictor(name)(wav)
    frames = 44100 // 512
    assert track.uv[5 : frames - 4].all()
    assert not track.uv[frames + 6 : 2 * frames - 5].any()
    assert track.uv[2 * frames + 6 : 3 * frames - 5].all()
    assert (track.f0 > 0).all()
    gap = track.f0[frames + 8 : 2 * frames - 8].astype(np.float64)
    np.testing.assert_allclose(np.diff(gap, 2), 0, atol=1e-3)
    assert gap[-1] - gap[0] > 50
