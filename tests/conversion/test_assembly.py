from __future__ import annotations

import numpy as np
import pytest

from svc.audio.overlap import crossfade
from svc.conversion.assembly import Assembler
from svc.conversion.chunks import Piece


def assembled(
    n_samples: int, pieces: list[tuple[Piece, np.ndarray]]
) -> tuple[np.ndarray, list[int]]:
    """The song, and how much of it was finished after each piece."""
    assembler = Assembler(n_samples)
    parts: list[np.ndarray] = []
    done = []
    for piece, wav in pieces:
        parts += assembler.add(piece, wav)
        done.append(sum(part.size for part in parts))
    parts += assembler.finish()
    assert all(part.size > 0 and part.dtype == np.float32 for part in parts)
    return np.concatenate(parts), done


def test_gaps_are_exact_zeros_and_borders_are_faded() -> None:
    piece = Piece(100, 400, fade_in=50, fade_out=50)
    song, done = assembled(1000, [(piece, np.ones(300, np.float32))])
    assert song.shape == (1000,)
    assert done == [400]
    assert not song[:100].any()
    assert not song[400:].any()
    assert np.array_equal(song[150:350], np.ones(200))
    assert np.abs(np.diff(song)).max() < 0.04


def test_what_a_later_piece_changes_is_held_back(rng: np.random.Generator) -> None:
    first = Piece(0, 400, fade_out=60, joins_next=True)
    second = Piece(340, 700, fade_in=60, joins_previous=True)
    wavs = [rng.standard_normal(n).astype(np.float32) for n in (400, 360)]
    song, done = assembled(700, [(first, wavs[0]), (second, wavs[1])])
    assert done == [340, 700]
    assert np.array_equal(song[:340], wavs[0][:340])
    assert np.array_equal(song[340:400], crossfade(wavs[0][340:], wavs[1][:60]))
    assert np.array_equal(song[400:], wavs[1][60:])


def test_long_silence_comes_in_small_parts() -> None:
    parts = list(Assembler(10_000_000).finish())
    assert sum(part.size for part in parts) == 10_000_000
    assert max(part.size for part in parts) <= 100_000
    assert parts[0] is not parts[1]  # who gets them may write into them


def test_pieces_that_do_not_fit_are_mistakes() -> None:
    with pytest.raises(ValueError, match="300 samples"):
        list(Assembler(1000).add(Piece(100, 400), np.ones(299, np.float32)))
    assembler = Assembler(1000)
    list(assembler.add(Piece(0, 300, fade_out=9, joins_next=True), np.ones(300, np.float32)))
    with pytest.raises(ValueError, match="does not meet"):
        list(assembler.add(Piece(300, 400), np.ones(100, np.float32)))
