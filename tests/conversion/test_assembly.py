from __future__ import annotations

import numpy as np
import pytest

from svc.conversion.assembly import Assembler
from svc.conversion.chunks import Piece


def test_gaps_are_exact_zeros_and_borders_are_faded() -> None:
    assembler = Assembler(1000)
    assembler.add(Piece(100, 400, fade_in=50, fade_out=50), np.ones(300, np.float32))
    song = assembler.song
    assert not song[:100].any()
    assert not song[400:].any()
    assert np.array_equal(song[150:350], np.ones(200))
    assert np.abs(np.diff(song)).max() < 0.04


def test_a_piece_of_the_wrong_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="300 samples"):
        Assembler(1000).add(Piece(100, 400), np.ones(299, np.float32))
