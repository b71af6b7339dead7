from __future__ import annotations

import itertools

import numpy as np
import pytest

from svc.audio.slicer import Segment
from svc.conversion.chunks import Piece, count_pieces, plan_pieces
from svc.conversion.options import InferOptions

SR = 44100


def planned(
    segments: list[Segment], source: np.ndarray, sr: int, model_sr: int, options: InferOptions
) -> list[Piece]:
    """All pieces of a song whose samples are known."""

    def take(begin: int, end: int) -> np.ndarray:
        assert 0 <= begin < end <= len(source)
        return source[begin:end]

    pieces = list(plan_pieces(segments, take, len(source), sr, model_sr, options))
    assert count_pieces(segments, len(source), sr, model_sr, options) == len(pieces)
    return pieces


def check(pieces: list[Piece], n_samples: int) -> None:
    """What must hold for every plan."""
    for piece in pieces:
        assert 0 <= piece.start < piece.end <= n_samples
        assert piece.fade_in >= 0
        assert piece.fade_out >= 0
        assert piece.fade_in + piece.fade_out <= piece.end - piece.start
    for left, right in itertools.pairwise(pieces):
        assert left.joins_next == right.joins_previous
        if left.joins_next:
            assert left.fade_out == right.fade_in == left.end - right.start
        else:
            assert left.end <= right.start
    assert not pieces or not (pieces[0].joins_previous or pieces[-1].joins_next)


def covered(pieces: list[Piece], n_samples: int) -> np.ndarray:
    mask = np.zeros(n_samples, bool)
    for piece in pieces:
        mask[piece.start : piece.end] = True
    return mask


def test_voiced_parts_are_covered_and_silence_is_not() -> None:
    segments = [Segment(0, 4800, False), Segment(4800, 9600, True), Segment(9600, 24001, False)]
    n_samples = -(-24001 * SR // 48000)
    source = np.ones(n_samples, np.float32)
    pieces = planned(segments, source, 48000, SR, InferOptions())
    check(pieces, n_samples)
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 4410), (8820, n_samples)]
    # The ends of the song are not faded, the borders with silence are.
    assert (pieces[0].fade_in, pieces[1].fade_out) == (0, 0)
    assert pieces[0].fade_out == pieces[1].fade_in == round(0.005 * SR)


def test_neighbouring_voiced_segments_overlap() -> None:
    segments = [Segment(0, 44100, False), Segment(44100, 88200, False)]
    pieces = planned(segments, np.ones(88200, np.float32), SR, SR, InferOptions())
    check(pieces, 88200)
    assert pieces[0].end - pieces[1].start == 440
    assert pieces[0].end + pieces[1].start == 2 * 44100  # centred on the cut


def test_forced_clips_with_overlap_count_in_output_samples() -> None:
    options = InferOptions(clip_seconds=1, crossfade_seconds=0.4, crossfade_retain=0.5)
    n_samples = 3 * SR
    pieces = planned([Segment(0, 24000, False)], np.ones(n_samples, np.float32), 8000, SR, options)
    check(pieces, n_samples)
    assert len(pieces) == 3
    assert covered(pieces, n_samples).all()
    assert pieces[1].fade_in == round(0.2 * SR)
    assert pieces[1].start == SR - round(0.3 * SR)  # a quarter of it is dropped


@pytest.mark.parametrize("clip", [0.0, 0.1, 0.37, 1.0, 2.999])
@pytest.mark.parametrize("overlap", [0.0, 0.001, 0.1, 1.0])
@pytest.mark.parametrize("retain", [0.01, 0.75, 1.0])
def test_every_combination_gives_a_sound_plan(clip: float, overlap: float, retain: float) -> None:
    rng = np.random.default_rng(3)
    options = InferOptions(
        clip_seconds=clip,
        crossfade_seconds=min(overlap, clip or overlap),
        crossfade_retain=retain,
        max_chunk_seconds=1.0,
    )
    for _ in range(20):
        bounds = np.unique(rng.integers(0, 6 * 22050, rng.integers(2, 9)))
        bounds[0] = 0
        segments = [
            Segment(int(a), int(b), bool(rng.random() < 0.3)) for a, b in itertools.pairwise(bounds)
        ]
        n_samples = -(-int(bounds[-1]) * SR // 22050)
        source = rng.standard_normal(n_samples).astype(np.float32)
        pieces = planned(segments, source, 22050, SR, options)
        check(pieces, n_samples)
        expected = np.zeros(n_samples, bool)
        for segment in segments:
            if not segment.silent:
                expected[segment.start * 2 : segment.end * 2] = True
        assert np.array_equal(covered(pieces, n_samples), expected)


def test_long_sound_is_cut_at_a_quiet_place_and_stays_short_enough() -> None:
    n_samples = 100 * SR
    source = np.full(n_samples, 0.5, np.float32)
    # With 30 s as the limit there are 5 parts of 20 s: each cut may move by 3 s.
    dips = [int(seconds * SR) for seconds in (18.2, 41.0, 62.5, 78.0)]
    for dip in dips:
        source[dip : dip + 2000] = 0.001
    limited = InferOptions(max_chunk_seconds=30)
    pieces = planned([Segment(0, n_samples, False)], source, SR, SR, limited)
    check(pieces, n_samples)
    assert covered(pieces, n_samples).all()
    cuts = [(left.end + right.start) // 2 for left, right in itertools.pairwise(pieces)]
    assert len(cuts) == 4
    for cut, dip in zip(cuts, dips):
        assert dip - 882 <= cut <= dip + 2000 + 882
    assert max(piece.end - piece.start for piece in pieces) <= 30 * SR + 4410
    unlimited = InferOptions(max_chunk_seconds=0)
    assert len(planned([Segment(0, n_samples, False)], source, SR, SR, unlimited)) == 1


def test_a_window_is_whole_frames_of_the_song_with_context() -> None:
    assert Piece(1000, 2000).window(300, 512) == (512, 2048)  # 700 to 2300 lie in frames 1 to 4
    assert Piece(0, 100).window(0, 512) == (0, 512)
    assert Piece(100, 1024).window(300, 512) == (-512, 2048)
    for start, end, context in itertools.product((0, 511, 5000), (5001, 9000), (0, 77, 22050)):
        begin, length = Piece(start, end).window(context, 512)
        assert begin % 512 == length % 512 == 0
        assert start - context - 512 < begin <= start - context
        assert end + context <= begin + length < end + context + 512


def test_a_piece_is_planned_before_the_song_is_read_to_its_end() -> None:
    """What is looked at when a piece comes out lies at most two pieces behind it; silence does not count."""
    n_samples = 200 * SR
    source = np.random.default_rng(0).standard_normal(n_samples).astype(np.float32)
    segments = [
        Segment(0, 90 * SR, False),
        Segment(90 * SR, 110 * SR, False),
        Segment(110 * SR, 160 * SR, True),
        Segment(160 * SR, n_samples, False),
    ]
    seen = [0]

    def take(begin: int, end: int) -> np.ndarray:
        seen[0] = max(seen[0], end)
        return source[begin:end]

    longest = 10
    options = InferOptions(max_chunk_seconds=longest)
    pieces = []
    for piece in plan_pieces(segments, take, n_samples, SR, SR, options):
        pieces.append(piece)
        assert seen[0] <= piece.end + 2 * longest * SR
        if piece.end <= 110 * SR:
            assert seen[0] < 160 * SR
    assert pieces == planned(segments, source, SR, SR, options)
    assert len(pieces) >= 15
