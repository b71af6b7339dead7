"""Encoders and predictors that remember: bit for bit what would be computed, and only what was asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.audio.pitch import F0Track
from svc.conversion import cached_hearing
from svc.conversion.cached_hearing import HearingCache
from svc.conversion.feature_cache import FeatureCache
from svc.conversion.file_hashes import FileHashes
from svc.f0 import build_f0_predictor
from svc.f0.ensemble import EnsemblePredictor
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave


class Encoder:
    """Units that nobody can guess, and a note of what was asked."""

    name, dim, usual_seconds = "stub", 3, 30.0
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode(self, wav16k: Tensor) -> Tensor:
        self.asked.append(len(wav16k))
        return torch.sin(wav16k[None, None, ::7] * torch.arange(1.0, 4.0)[None, :, None])

    def encode_batch(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        return [self.encode(wav) for wav in wavs]


class Predictor:
    """A track with or without confidence."""

    name = "stub"

    def __init__(self, confidence: bool = True, **settings: Any) -> None:
        self.settings, self.confidence = F0Settings(**settings), confidence
        self.asked: list[int] = []

    def __call__(self, wav: np.ndarray | F0Wave) -> F0Track:
        self.asked.append(len(wav))
        samples = wav.samples if isinstance(wav, F0Wave) else wav
        f0 = np.abs(samples[::512]) * 1000
        return F0Track(f0, (f0 > 300), np.sqrt(f0) if self.confidence else None)

    def track_batch(self, wavs: Sequence[np.ndarray | F0Wave]) -> list[F0Track]:
        return [self(wav) for wav in wavs]


class Graph:
    """A graph of two outputs."""

    def __init__(self) -> None:
        self.asked = 0

    def run(self, **inputs: np.ndarray) -> list[np.ndarray]:
        self.asked += 1
        return [inputs["wav"] * 2, inputs["wav"][:, :1]]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "weights.pt").write_bytes(b"weights")
    return tmp_path / "weights.pt"


@pytest.fixture
def cache(tmp_path: Path) -> Any:
    with FileHashes() as hashes:
        yield HearingCache(FeatureCache(tmp_path / "features"), hashes)


def test_an_encoder_is_asked_once(
    cache: HearingCache, weights: Path, rng: np.random.Generator
) -> None:
    wavs = [torch.from_numpy(rng.standard_normal(n).astype(np.float32)) for n in (50, 70, 0, 50)]
    inner = Encoder()
    first = [cache.encoder(inner, [weights], "fp32").encode(wav) for wav in wavs]
    assert inner.asked == [50, 70, 0, 50]
    again = Encoder()
    cached = cache.encoder(again, [weights], "fp32")
    assert (cached.name, cached.dim, cached.usual_seconds) == ("stub", 3, 30.0)
    for wav, units in zip(wavs, first):
        found = cached.encode(wav)
        assert torch.equal(found, units)
        assert found.dtype == units.dtype
    assert again.asked == []
    new = torch.ones(9)
    both = cached.encode_batch([wavs[1], new, wavs[0], new])
    assert again.asked == [9]
    assert torch.equal(both[0], first[1])
    assert torch.equal(both[2], first[0])
    assert torch.equal(both[1], both[3])


def test_units_are_told_apart_by_all_they_depend_on(
    cache: HearingCache,
    weights: Path,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wav = torch.from_numpy(rng.standard_normal(100).astype(np.float32))
    inner = Encoder()

    def ask(precision: str = "fp32", files: Sequence[Path] = (weights,)) -> int:
        before = len(inner.asked)
        cache.encoder(inner, files, precision).encode(wav)
        return len(inner.asked) - before

    assert ask() == 1
    assert ask() == 0
    assert ask("bf16") == 1
    assert ask(files=[]) == 1
    weights.write_bytes(b"other weights")
    assert ask() == 1
    weights.write_bytes(b"weights")
    assert ask() == 0  # the content decides, not the time
    inner.name = "other"
    assert ask() == 1
    inner.name = "stub"
    wav[3] = torch.nextafter(wav[3], torch.tensor(9.0))
    assert ask() == 1
    monkeypatch.setattr(cached_hearing, "cpu_threads", lambda: 99)
    assert ask() == 1
    monkeypatch.setattr(cached_hearing, "__version__", "99")
    assert ask() == 1


@pytest.mark.parametrize("confidence", [True, False])
def test_a_predictor_is_asked_once(
    cache: HearingCache, weights: Path, rng: np.random.Generator, confidence: bool
) -> None:
    waves = [rng.uniform(-1, 1, n).astype(np.float32) for n in (5000, 600, 100)]
    inner = Predictor(confidence)
    first = [cache.predictor(inner, [weights], "cpu")(wave) for wave in waves]
    again = Predictor(confidence)
    cached = cache.predictor(again, [weights], "cpu")
    assert (cached.name, cached.settings) == (again.name, again.settings)
    found = [cached(waves[0]), *cached.track_batch([waves[1], F0Wave(waves[2], 44100)])]
    for ours, theirs in zip(found, first):
        for name in ("f0", "uv", "confidence"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    assert again.asked == []
    mixed = cached.track_batch([waves[0][:700], waves[1], waves[0][:700]])
    assert again.asked == [700]
    assert np.array_equal(mixed[0].f0, mixed[2].f0)
    for settings in ({"f0_max": 900.0}, {"hop_length": 256}, {"threshold": 0.3}):
        other = Predictor(confidence, **settings)
        cache.predictor(other, [weights], "cpu")(waves[0])
        assert other.asked == [5000], settings


@pytest.mark.parametrize("other", [{"threshold": 0.5}, {"f0_max": 900.0}])
def test_every_member_of_an_ensemble_counts(
    cache: HearingCache, rng: np.random.Generator, other: dict[str, float]
) -> None:
    wave = rng.uniform(-1, 1, 5000).astype(np.float32)

    def asked(**settings: float) -> int:
        """How often the second member is asked; the ensemble's settings are the first one's."""
        first, second = Predictor(), Predictor(**settings)
        second.name = "second"
        ensemble = EnsemblePredictor([first, second], first.settings)
        cache.predictor(ensemble, [], "cpu")(wave)
        return len(second.asked)

    assert [asked(), asked()] == [1, 0]
    assert [asked(**other), asked(**other), asked()] == [1, 0, 0]


def test_another_processor_has_entries_of_its_own(
    cache: HearingCache, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = rng.uniform(-1, 1, 5000).astype(np.float32)
    inner = Predictor()
    cache.predictor(inner, [], "cpu")(wave)
    for kind in (["AVX2"], ["AVX512"], ["AVX512"]):
        monkeypatch.setattr(cached_hearing, "cpu_kind", lambda kind=kind: kind)
        cache.predictor(inner, [], "cpu")(wave)
    assert len(inner.asked) == 3


def test_a_real_predictor(cache: HearingCache, rng: np.random.Generator) -> None:
    wav = (0.5 * np.sin(np.arange(44100) * 0.03) + 0.01 * rng.standard_normal(44100)).astype("f4")
    plain = build_f0_predictor("dio")
    expected = plain(wav)
    for _ in range(2):
        found = cache.predictor(plain, [], "cpu")(wav)
        assert found.f0.tobytes() == expected.f0.tobytes()
        assert found.uv.tobytes() == expected.uv.tobytes()
    assert (cache.store.hits, cache.store.misses) == (1, 1)


def test_a_graph_is_run_once(cache: HearingCache, weights: Path) -> None:
    graph = Graph()
    wav = np.arange(6, dtype=np.float32)[None]
    expected = graph.run(wav=wav)
    for _ in range(3):
        found = cache.graph(graph, weights, "cpu").run(wav=wav)
        assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]
    assert graph.asked == 2
    cache.graph(graph, weights, "cpu").run(wav=wav + 1)
    assert graph.asked == 3


def test_without_a_cache_nothing_is_wrapped(tmp_path: Path) -> None:
    from svc.conversion.options import HearingChoice

    fields = {field.name: field.default for field in dataclasses.fields(HearingChoice)}
    assert fields["cache"] is None
