from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import list_audio, read_audio
from svc.audio.slicer import Segment, Slicer
from svc.errors import ConfigError

Phrases = Callable[..., np.ndarray]
SR = 44100
FAR = 99.0
GAPS = {
    "gap1s_at8": [(8, 9)],
    "gap7s": [(8, 15)],
    "gap12s": [(7, 19)],
    "lead2_trail5": [(-1, 2), (25, FAR)],
    "lead6.5": [(-1, 6.5)],
    "lead12_trail10": [(-1, 12), (20, FAR)],
    "gap_before5s": [(3, 4)],
    "all_silence": [(-1, FAR)],
    "no_silence": [],
}


def from_golden(chunks: dict[str, Any]) -> list[Segment]:
    """Zero-length chunks, which the original lists and its reader drops, are left out."""
    bounds = [(*map(int, c["split_time"].split(",")), c["slice"]) for c in chunks.values()]
    return [Segment(start, end, silent) for start, end, silent in bounds if end > start]


def assert_tiles(segments: list[Segment], n_samples: int) -> None:
    position = 0
    for segment in segments:
        assert segment.start == position
        assert segment.n_samples == segment.end - segment.start > 0
        position = segment.end
    assert position == n_samples


@pytest.mark.parametrize("case", GAPS)
def test_cases_of_the_original(data_dir: Path, phrases: Phrases, case: str) -> None:
    text = (data_dir / "audio" / "golden_slicer.json").read_text(encoding="utf-8")
    segments = Slicer(SR).slice(phrases(30, GAPS[case]))
    assert segments == from_golden(json.loads(text)[case])
    assert_tiles(segments, 30 * SR)


def test_chunks_of_the_original_conversion(golden: Path) -> None:
    wav, sr = read_audio(golden / "golden_slice_inference_in.wav")
    text = (golden / "golden_slice_inference.json").read_text(encoding="utf-8")
    assert Slicer(sr).slice(wav) == from_golden(json.loads(text)["chunks"])


def scan_frame_by_frame(
    rms: np.ndarray, threshold: float, frames: tuple[int, int, int]
) -> list[tuple[int, int]]:
    """The scan of spec_core 8.4, written down literally."""
    min_length, min_interval, keep = frames
    tags: list[tuple[int, int]] = []
    silence_start, clip_start = None, 0
    for i, value in enumerate(rms):
        if value < threshold:
            silence_start = i if silence_start is None else silence_start
            continue
        if silence_start is None:
            continue
        s, silence_start = silence_start, None
        lead = s == 0 and i > keep
        mid = i - s >= min_interval and i - clip_start >= min_length
        if not lead and not mid:
            continue
        if i - s <= keep:
            p = s + int(rms[s : i + 1].argmin())
            tags.append((0, p) if s == 0 else (p, p))
            clip_start = p
            continue
        left = s + int(rms[s : s + keep + 1].argmin())
        right = i - keep + int(rms[i - keep : i + 1].argmin())
        if i - s <= 2 * keep:
            p = i - keep + int(rms[i - keep : s + keep + 1].argmin())
            clip_start = right if s == 0 else max(right, p)
            tags.append((0, right) if s == 0 else (min(left, p), clip_start))
        else:
            tags.append((0, right) if s == 0 else (left, right))
            clip_start = right
    n = len(rms)
    if silence_start is not None and n - silence_start >= min_interval:
        e = min(n, silence_start + keep)
        tags.append((silence_start + int(rms[silence_start : e + 1].argmin()), n + 1))
    return tags


def test_scan_equals_the_literal_one(rng: np.random.Generator) -> None:
    for _ in range(200):
        slicer = Slicer(1000, min_length_ms=400, min_interval_ms=100, max_silence_ms=300)
        frames = (slicer._min_length, slicer._min_interval, slicer._max_silence)
        lengths = rng.integers(1, 45, 30)
        loud = np.repeat(np.arange(30) % 2 == rng.integers(0, 2), lengths)
        rms = rng.uniform(0.02, 1, len(loud)) * np.where(loud, 1, 0.009)
        values = rms.astype(np.float32)
        tags = slicer._silences(values, values < slicer._threshold)
        assert tags == scan_frame_by_frame(values, slicer._threshold, frames)


@pytest.mark.parametrize("sr", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_any_signal_is_tiled(rng: np.random.Generator, sr: int) -> None:
    for _ in range(3):
        n = int(rng.integers(1, 40 * sr))
        gate = np.repeat(rng.random(n // (sr // 2) + 1) > 0.6, sr // 2)[:n]
        wav = (0.3 * rng.standard_normal(n) * gate).astype(np.float32)
        slicer = Slicer(sr, min_length_ms=1000, max_silence_ms=600)
        assert_tiles(slicer.slice(wav), n)


def test_silence_segments_are_silent(phrases: Phrases) -> None:
    wav = phrases(40, [(-1, 3), (9, 22), (30, FAR)])
    segments = Slicer(SR, max_silence_ms=500).slice(wav)
    assert [s.silent for s in segments] == [True, False, True, False, True]
    for segment in segments:
        if segment.silent:
            assert np.abs(wav[segment.start : segment.end]).max() == 0.0


@pytest.mark.parametrize("n", [0, 1, 100, 882, 5000])
def test_short_and_silent_files(n: int) -> None:
    silent = Slicer(SR).slice(np.zeros(n, np.float32))
    assert silent == ([Segment(0, n, silent=True)] if n else [])
    loud = Slicer(SR).slice(np.full(n, 0.5, np.float32))
    if n == 1:
        return  # one sample alone is below the threshold as RMS over a window
    assert loud == ([Segment(0, n, silent=False)] if n else [])


def test_threshold(phrases: Phrases) -> None:
    wav = phrases(20, [], level=0.005)
    assert Slicer(SR, threshold_db=-40).slice(wav) == [Segment(0, 20 * SR, silent=True)]
    assert Slicer(SR, threshold_db=-60).slice(wav) == [Segment(0, 20 * SR, silent=False)]


@pytest.mark.parametrize(
    "options",
    [
        {"min_length_ms": 200},
        {"min_interval_ms": 10},
        {"max_silence_ms": 10},
        {"hop_ms": 0},
    ],
)
def test_contradicting_options(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="min length"):
        Slicer(SR, **options)


def test_real_recordings(shared: Path) -> None:
    for path in list_audio(shared / "audio" / "singing" / "trope_cantor")[:4]:
        wav, sr = read_audio(path)
        segments = Slicer(sr, min_length_ms=1000).slice(wav)
        assert_tiles(segments, len(wav))
        assert any(not s.silent for s in segments)
