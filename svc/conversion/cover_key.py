"""The key of a cover: one transposition for all vocals, in octaves, for the instrumental stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from svc.audio.io import read_audio
from svc.audio.resample import resample
from svc.conversion.converter import Converter
from svc.conversion.cover_plan import Stem
from svc.conversion.sources import ArraySource

_PAUSE_SECONDS = 1.0  # between stems that are listened to as one song


def key_note(stems: Sequence[Stem]) -> str:
    """Return what there is to say about the key: vocals that leave the one of the instrumental."""
    if not any(stem.role == "keep" for stem in stems):
        return ""
    moved = {
        stem.options.transpose
        for stem in stems
        if stem.sung and not stem.options.auto_f0 and stem.options.transpose % 12 != 0
    }
    if not moved:
        return ""
    by = ", ".join(f"{semitones:+g}" for semitones in sorted(moved))
    return (
        f"vocals are transposed by {by} semitones, which are no whole octaves, and the instrumental "
        "stays in its key"
    )


def share_key(
    converter: Converter, stems: Sequence[Stem], on_key: Callable[[str], None] | None = None
) -> list[Stem]:
    """Choose one transposition for all stems that ask for one, in whole octaves.

    The stems of the lead's voice are listened to as one song; those of other voices follow.

    Args:
        converter: the voice; the range of the lead's speaker must be known.
        stems: all.
        on_key: called with a line about what was chosen.

    Raises:
        SvcError: as `Converter.fit_key`.
    """
    first = deciding_stem(stems)
    if first is None:
        return list(stems)
    undecided = _undecided(stems)
    heard = [read_audio(stem.path) for stem in undecided if stem.speaker == first.speaker]
    sr = max(rate for _, rate in heard)
    pause = np.zeros(round(_PAUSE_SECONDS * sr), dtype=np.float32)
    song = np.concatenate(
        [part for wav, rate in heard for part in (resample(wav, rate, sr), pause)]
    )
    asked = replace(first.options, fit_to_voice="octaves")
    key = converter.fit_key(ArraySource(song, sr), first.speaker, asked)
    if key.chosen and on_key is not None:
        on_key(f"all vocals: {key.chosen}")
    shift = key.options.transpose
    return [
        replace(stem, options=replace(stem.options, fit_to_voice="no", transpose=shift))
        if stem in undecided
        else stem
        for stem in stems
    ]


def deciding_stem(stems: Sequence[Stem]) -> Stem | None:
    """Return the stem whose voice decides on the octave: the lead; None where nothing is to be chosen."""
    undecided = _undecided(stems)
    return next((stem for stem in undecided if stem.role == "lead"), next(iter(undecided), None))


def _undecided(stems: Sequence[Stem]) -> list[Stem]:
    return [stem for stem in stems if stem.sung and stem.options.fit_to_voice != "no"]
