"""Encoders and pitch predictors that look into the cache before they listen.

A key covers all that decides what is heard: the samples, the content of the weight files, the settings,
the versions of this program and of what computes, the kinds of processor and device and the number of
threads (which decides how sums are split). So what comes out of the cache is bit for bit what would be
computed; but for units that a GPU computed in a batch, which carry the rounding of that batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from svc import __version__
from svc.audio.pitch import F0Track
from svc.conversion.cpu_kind import cpu_kind
from svc.conversion.feature_cache import FeatureCache
from svc.conversion.file_hashes import FileHashes
from svc.f0.base import F0Predictor
from svc.f0.ensemble import EnsemblePredictor
from svc.f0.wave import F0Wave
from svc.threads import cpu_threads

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from svc.speech.base import SpeechEncoder

_LAYOUT = 1  # of keys and entries; another number leaves older entries to age
_COMPUTES = ("torch", "numpy", "scipy", "onnxruntime", "praat-parselmouth", "pyworld-prebuilt")


class Runs(Protocol):
    """A graph, or what stands for it."""

    def run(self, **inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        """Compute all outputs from inputs by name."""


class HearingCache:
    """Makes what a voice hears with remember between runs.

    Args:
        store: where entries are kept.
        hashes: of the weight files.
    """

    def __init__(self, store: FeatureCache, hashes: FileHashes) -> None:
        self.store, self._hashes = store, hashes

    def expect(self, files: Sequence[Path]) -> None:
        """Begin to hash weights that are about to be loaded."""
        self._hashes.ask(files)

    def encoder(
        self, encoder: SpeechEncoder, files: Sequence[Path], precision: str
    ) -> CachedEncoder:
        """Return an encoder that remembers.

        Args:
            encoder: the one that listens.
            files: its weights, and the settings beside them.
            precision: of its matrix products.
        """
        facts = {
            "name": encoder.name,
            "dim": encoder.dim,
            "precision": precision,
            **_place_of(encoder.device),
        }
        return CachedEncoder(encoder, self._key("units", encoder, files, facts))

    def predictor(
        self, predictor: F0Predictor, files: Sequence[Path], device: torch.device | str
    ) -> CachedPredictor:
        """Return a pitch predictor that remembers.

        Args:
            predictor: the one that listens.
            files: its weights, those of all members of an ensemble.
            device: where it computes.
        """
        facts: dict[str, Any] = {
            "name": predictor.name,
            "settings": dataclasses.asdict(predictor.settings),
            **_place_of(device),
        }
        if isinstance(predictor, EnsemblePredictor):  # its settings are those of one member
            facts["members"] = [
                [member.name, dataclasses.asdict(member.settings)] for member in predictor.members
            ]
        return CachedPredictor(predictor, self._key("f0", predictor, files, facts))

    def graph(self, graph: Runs, path: Path, device: str) -> CachedGraph:
        """Return a graph without chance in it that remembers.

        Args:
            graph: the one that computes.
            path: its file.
            device: where it computes.
        """
        return CachedGraph(graph, self._key("graph", graph, [path], _place_of(device)))

    def _key(
        self, kind: str, computes: object, files: Sequence[Path], facts: Mapping[str, Any]
    ) -> EntryKeys:
        return EntryKeys(self.store, self._hashes, tuple(files), {
            "kind": kind,
            "layout": _LAYOUT,
            "svc": __version__,
            "class": f"{type(computes).__module__}.{type(computes).__qualname__}",
            "versions": {name: _version(name) for name in _COMPUTES},
            "machine": [platform.machine(), platform.system(), *cpu_kind()],
            **facts,
        })  # fmt: skip


@dataclasses.dataclass
class EntryKeys:
    """Keys of the entries of one encoder or predictor, and the cache they lead to."""

    store: FeatureCache
    hashes: FileHashes
    files: tuple[Path, ...]
    facts: Mapping[str, Any]
    _start: bytes = b""

    def of(self, *inputs: npt.NDArray[Any]) -> str:
        """Return the key for arrays that go in."""
        if not self._start:  # at the first use: the weights are hashed while they are loaded
            facts = {**self.facts, "files": [self.hashes.of(path) for path in self.files]}
            self._start = json.dumps(facts, sort_keys=True).encode()
        digest = hashlib.sha256(self._start)
        for array in inputs:
            digest.update(f"|{array.dtype.str}{array.shape}|{cpu_threads()}|".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


class CachedEncoder:
    """A speech encoder that looks into the cache first; a `SpeechEncoder`.

    Args:
        encoder: the one that listens.
        keys: its keys.
    """

    def __init__(self, encoder: SpeechEncoder, keys: EntryKeys) -> None:
        self.inner, self._keys = encoder, keys
        self.name, self.dim, self.device = encoder.name, encoder.dim, encoder.device
        self.usual_seconds = encoder.usual_seconds

    def encode(self, wav16k: Tensor) -> Tensor:
        """Return units (1, C, S) of (T,) samples at 16 kHz."""
        return self._recall([wav16k], lambda new: [self.inner.encode(new[0])])[0]

    def encode_batch(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """Return units of several waves; those not heard before are encoded together."""
        return self._recall(wavs, self.inner.encode_batch)

    def _recall(self, wavs: Sequence[Tensor], encode: Any) -> list[Tensor]:
        import torch

        keys = [self._keys.of(wav.detach().cpu().numpy()) for wav in wavs]
        units: dict[str, Tensor] = {}
        new: dict[str, Tensor] = {}
        for key, wav in zip(keys, wavs, strict=True):
            if key in units or key in new:
                continue
            entry = self._keys.store.get(key)
            if entry is not None and "units" in entry:
                units[key] = torch.from_numpy(entry["units"]).to(self.device)
            else:
                new[key] = wav
        if new:
            for key, made in zip(new, encode(list(new.values())), strict=True):
                units[key] = made
                self._keys.store.put(key, {"units": made.detach().cpu().numpy()})
        return [units[key] for key in keys]


class CachedPredictor:
    """A pitch predictor that looks into the cache first; an `F0Predictor`.

    Args:
        predictor: the one that listens.
        keys: its keys.
    """

    def __init__(self, predictor: F0Predictor, keys: EntryKeys) -> None:
        self.inner, self._keys = predictor, keys
        self.name, self.settings = predictor.name, predictor.settings

    def __call__(self, wav: npt.NDArray[np.float32] | F0Wave) -> F0Track:
        """Return the track of a wave (T,), T // hop_length frames. Raises AudioError for NaN."""
        key = self._key(wav)
        track = _track(self._keys.store.get(key))
        if track is None:
            track = self.inner(wav)
            self._keys.store.put(key, _entry(track))
        return track

    def track_batch(self, wavs: Sequence[npt.NDArray[np.float32] | F0Wave]) -> list[F0Track]:
        """Return the tracks of several waves; those not heard before are computed together."""
        keys = [self._key(wav) for wav in wavs]
        tracks = {key: _track(self._keys.store.get(key)) for key in dict.fromkeys(keys)}
        new = {key: wav for key, wav in zip(keys, wavs, strict=True) if tracks[key] is None}
        if new:
            heard = self.inner.track_batch(list(new.values()))
            for key, made in zip(new, heard, strict=True):
                tracks[key] = made
                self._keys.store.put(key, _entry(made))
        return [track for key in keys if (track := tracks[key]) is not None]

    def _key(self, wav: npt.NDArray[np.float32] | F0Wave) -> str:
        return self._keys.of(wav.samples if isinstance(wav, F0Wave) else np.asarray(wav))


class CachedGraph:
    """A graph that looks into the cache first.

    Args:
        graph: the one that computes.
        keys: its keys.
    """

    def __init__(self, graph: Runs, keys: EntryKeys) -> None:
        self.inner, self._keys = graph, keys

    def run(self, **inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        """Compute all outputs from inputs by name."""
        names = sorted(inputs)
        words = np.frombuffer("\n".join(names).encode(), dtype=np.uint8)
        key = self._keys.of(words, *(inputs[name] for name in names))
        entry = self._keys.store.get(key)
        if entry is not None and entry:
            return [entry[str(index)] for index in range(len(entry))]
        made = self.inner.run(**inputs)
        self._keys.store.put(key, {str(index): array for index, array in enumerate(made)})
        return made


def _entry(track: F0Track) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {"f0": track.f0, "uv": track.uv}
    if track.confidence is not None:
        found["confidence"] = track.confidence
    return found


def _track(entry: Mapping[str, npt.NDArray[Any]] | None) -> F0Track | None:
    if entry is None or not {"f0", "uv"} <= set(entry):
        return None
    return F0Track(entry["f0"], entry["uv"], entry.get("confidence"))


def _place_of(device: torch.device | str) -> dict[str, str]:
    """Name what computes: sums are rounded otherwise on another kind of it."""
    kind = str(device).partition(":")[0]
    torch = sys.modules.get("torch")  # graphs compute without it
    if kind != "cuda" or torch is None:
        return {"device": kind}
    return {"device": torch.cuda.get_device_name(device)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
