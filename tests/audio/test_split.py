from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import list_audio, read_audio
from svc.audio.slicer import Dropped, Segment, split_clips
from svc.errors import ConfigError

Phrases = Callable[..., np.ndarray]
SR = 16000
FAR = 999.0


def assert_tiles(clips: list[Segment], dropped: list[Dropped], n_samples: int) -> None:
    position = 0
    parts: list[Segment | Dropped] = [*clips, *dropped]
    for part in sorted(parts, key=lambda p: p.start):
        assert part.start == position
        assert part.end > part.start
        position = part.end
    assert position == n_samples
    assert clips == sorted(clips, key=lambda c: c.start)
    assert {d.reason for d in dropped} <= {"silent", "too short"}


def seconds(clips: list[Segment]) -> list[float]:
    return [clip.n_samples / SR for clip in clips]


def split(wav: np.ndarray, **options: object) -> tuple[list[Segment], list[Dropped]]:
    clips, dropped = split_clips(wav, SR, **options)  # type: ignore[arg-type]
    assert_tiles(clips, dropped, len(wav))
    return clips, dropped


def test_cuts_at_pauses_and_keeps_everything(phrases: Phrases) -> None:
    wav = phrases(31, [(9.6, 10.0), (20.3, 20.7)], SR)
    clips, dropped = split(wav)
    assert not dropped
    assert [round(c.end / SR, 1) for c in clips] == [9.8, 20.5, 31.0]


def test_shorter_pauses_are_used_only_when_needed(phrases: Phrases) -> None:
    wav = phrases(28, [(9.0, 9.4), (13.0, 13.12)], SR)
    clips, _ = split(wav)
    assert clips[0].end / SR == pytest.approx(9.2, abs=0.15)  # 0.4 s is better than 0.12 s
    wav = phrases(28, [(13.0, 13.12)], SR)
    clips, _ = split(wav)
    assert clips[0].end / SR == pytest.approx(13.06, abs=0.06)
    wav = phrases(28, [(13.0, 13.07)], SR)
    clips, _ = split(wav)
    assert clips[0].end / SR == pytest.approx(13.03, abs=0.04)


def test_without_a_pause_the_quietest_frame_is_cut(rng: np.random.Generator) -> None:
    wav = (0.3 * rng.standard_normal(24 * SR)).astype(np.float32)
    wav[int(11.3 * SR) : int(11.34 * SR)] *= 0.1
    clips, dropped = split(wav)
    assert not dropped
    assert clips[0].end / SR == pytest.approx(11.32, abs=0.03)
    assert max(seconds(clips)) <= 15


def test_long_silence_is_left_out_but_for_its_edges(phrases: Phrases) -> None:
    wav = phrases(40, [(-1, 4), (12, 22), (33, FAR)], SR)
    clips, dropped = split(wav, max_silence_ms=500)
    assert [(round(c.start / SR, 1), round(c.end / SR, 1)) for c in clips] == [
        (3.5, 12.5),
        (21.5, 33.5),
    ]
    assert [d.reason for d in dropped] == ["silent"] * 3
    for part in dropped:
        assert np.abs(wav[part.start : part.end]).max() == 0


def test_short_phrases_are_joined(phrases: Phrases) -> None:
    gaps = [(t + 3.0, t + 4.2) for t in np.arange(0, 42, 4.2)]
    clips, dropped = split(phrases(42, gaps, SR))
    assert min(seconds(clips)) >= 5
    assert max(seconds(clips)) <= 15
    assert sum(seconds(clips)) > 35
    assert {d.reason for d in dropped} <= {"silent"}


def test_clicks_are_not_joined_to_a_clip(phrases: Phrases) -> None:
    gaps = [(t + 0.05, t + 2.5) for t in np.arange(0, 40, 2.5)]
    clips, dropped = split(phrases(40, gaps, SR))
    assert not clips
    assert "too short" in {d.reason for d in dropped}


def test_clips_of_fit_length_are_not_joined(phrases: Phrases) -> None:
    clips, _ = split(phrases(20, [(6, 8), (14, FAR)], SR))
    # Joined they would last 14.5 s, which fits, but nothing needs it.
    assert seconds(clips) == pytest.approx([6.5, 7.0], abs=0.05)


def test_a_lone_short_sound_is_dropped_and_named(phrases: Phrases) -> None:
    wav = phrases(60, [(10, 30), (31, FAR)], SR)
    clips, dropped = split(wav)
    assert len(clips) == 1
    short = [d for d in dropped if d.reason == "too short"]
    assert len(short) == 1
    assert short[0].start / SR < 30 < 31 < short[0].end / SR


def test_joining_does_not_make_clips_of_silence(phrases: Phrases) -> None:
    """5 s of song and a cough of 0.3 s nine seconds later do not become one clip."""
    clips, _ = split(phrases(40, [(5, 14), (14.3, FAR)], SR))
    assert len(clips) == 1
    assert clips[0].end / SR < 6


@pytest.mark.parametrize("n", [0, 1, 100, SR, 4 * SR])
def test_silent_and_short_files(n: int) -> None:
    clips, dropped = split(np.zeros(n, np.float32))
    assert not clips
    assert dropped == ([Dropped(0, n, "silent")] if n else [])
    clips, dropped = split(np.full(n, 0.5, np.float32))
    assert not clips
    assert dropped == ([Dropped(0, n, "too short")] if n else [])


@pytest.mark.parametrize("length", [5.0, 15.0, 9.99995])
def test_lengths_at_the_limits_are_kept_whole(length: float) -> None:
    n = round(length * SR)
    clips, dropped = split(np.full(n, 0.5, np.float32))
    assert clips == [Segment(0, n, silent=False)]
    assert not dropped


@pytest.mark.parametrize(
    "limits", [(5, 15), (2, 4), (1, 1.5), (5, 6), (3, 3), (0.5, 30), (4.99, 5.01)]
)
def test_random_signals(rng: np.random.Generator, limits: tuple[float, float]) -> None:
    for _ in range(12):
        gate = np.repeat(rng.random(400) > rng.uniform(0.02, 0.8), rng.integers(500, 6000, 400))
        wav = (0.3 * rng.standard_normal(len(gate)) * gate).astype(np.float32)
        keep = int(rng.integers(0, 900))
        clips, dropped = split(
            wav, min_seconds=limits[0], max_seconds=limits[1], max_silence_ms=keep
        )
        assert all(limits[0] <= s <= limits[1] for s in seconds(clips))
        for part in dropped:
            if part.reason == "silent":  # nothing that sounds is thrown away unsaid
                assert np.sqrt(np.mean(wav[part.start : part.end] ** 2)) < 0.05
            else:
                assert part.end - part.start < limits[0] * SR


def test_nearly_all_sound_is_kept(rng: np.random.Generator) -> None:
    gate = np.repeat(np.arange(300) % 2, rng.integers(1000, 30000, 300))
    wav = (0.3 * rng.standard_normal(len(gate)) * gate).astype(np.float32)
    clips, _ = split(wav)
    kept = sum(np.square(wav[c.start : c.end]).sum() for c in clips)
    assert kept > 0.97 * np.square(wav).sum()


@pytest.mark.parametrize(
    "options",
    [
        {"min_seconds": 0},
        {"min_seconds": 10, "max_seconds": 5},
        {"min_interval_ms": ()},
        {"min_interval_ms": (300, 5)},
        {"max_silence_ms": -1},
    ],
)
def test_contradicting_options(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="change these options"):
        split(np.ones(100, np.float32), **options)


def test_real_recordings(shared: Path) -> None:
    """Two minutes of a cantor, joined: most of it ends in clips of fit length."""
    parts, total = [], 0
    for path in list_audio(shared / "audio" / "singing" / "trope_cantor"):
        wav, sr = read_audio(path)
        parts.append(wav)
        total += len(wav)
        if total > 120 * sr:
            break
    wav = np.concatenate(parts)
    clips, dropped = split_clips(wav, sr)
    assert_tiles(clips, dropped, len(wav))
    assert all(5 * sr <= c.n_samples <= 15 * sr for c in clips)
    assert sum(c.n_samples for c in clips) > 0.8 * len(wav)
    # Cuts lie in quiet places: the 20 ms around an inner cut are softer than the clip.
    for clip in clips[1:]:
        around = wav[clip.start - sr // 100 : clip.start + sr // 100]
        assert np.square(around).mean() < 0.3 * np.square(wav[clip.start : clip.end]).mean()
