"""The timbre distance on real singers and speakers: a clip left out is nearest to its own voice."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import read_audio
from svc.evaluation.timbre import envelope_cepstra, timbre_distance, timbre_of

SECONDS = 6  # read of each clip


def frames_by_voice(folder: Path, patterns: dict[str, int]) -> dict[str, list[np.ndarray]]:
    """Cepstra of the first clips of each voice whose folder matches a pattern."""
    voices: dict[str, list[np.ndarray]] = defaultdict(list)
    for pattern, count in patterns.items():
        for place in sorted(folder.glob(pattern)):
            for path in sorted(place.glob("*.flac"))[:count]:
                wav, sr = read_audio(path)
                voices[place.name].append(envelope_cepstra(wav[: SECONDS * sr], sr))
    return voices


def share_right(voices: dict[str, list[np.ndarray]]) -> tuple[float, int]:
    """Leave each clip out; is its own voice, made of the other clips, the nearest one?"""
    right = total = 0
    for name, clips in voices.items():
        for index, clip in enumerate(clips):
            query = timbre_of([clip])
            if query is None:
                continue
            distance: dict[str, float] = {}
            for other, frames in voices.items():
                rest = [f for i, f in enumerate(frames) if (other, i) != (name, index)]
                timbre = timbre_of(rest)
                if timbre is not None:
                    distance[other] = timbre_distance(query, timbre)
            if name in distance:
                total += 1
                right += min(distance, key=lambda key: distance[key]) == name
    return right / total, total


def test_held_out_clips_of_singers_are_nearest_to_their_singer(shared):
    voices = frames_by_voice(
        shared / "audio" / "singing", {"gts_*": 7, "trope_cantor": 6, "iona": 8}
    )
    share, total = share_right(voices)
    assert len(voices) >= 13
    assert total >= 60
    assert share >= 0.85, f"{share:.3f} of {total}"


def test_held_out_sentences_are_nearest_to_their_speaker(shared):
    voices = frames_by_voice(shared / "audio" / "speech", {"vcc16_*": 5, "vctk_*": 3})
    share, total = share_right(voices)
    assert len(voices) >= 6
    assert total >= 20
    assert share >= 0.95, f"{share:.3f} of {total}"


def test_a_singer_is_nearer_to_herself_at_another_pitch_than_to_a_bass(shared):
    folder = shared / "audio" / "singing"
    soprano, bass = folder / "gts_it_soprano_1", folder / "gts_es_bass_1"
    if not (soprano.is_dir() and bass.is_dir()):
        pytest.skip("the clips of these singers are not there")

    def timbre(path: Path):
        wav, sr = read_audio(path)
        return timbre_of([envelope_cepstra(wav, sr)])

    falsetto = timbre(soprano / "it03_Falsetto.flac")
    other_song = timbre(soprano / "it01_Control.flac")
    low = timbre(bass / "sp02_Control.flac")
    assert timbre_distance(falsetto, other_song) < 0.5 * timbre_distance(falsetto, low)
