"""Where training gets clips from: the pack of a data set where there is one, else their files.

Both give the same numbers, bit for bit. What comes out of a pack is a view of the file until a part
of it is taken (`take`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svc.audio.io import audio_info, read_audio
from svc.audio.pitch import F0Track
from svc.dataset.clip_arrays import FULL_SCALE, not_numbers
from svc.dataset.feature_settings import FeatureSettings
from svc.dataset.features import FeatureCache
from svc.dataset.pack import Array, Pack, PackedClip, pack_path


def take(values: Array, start: int = 0, stop: int | None = None) -> Tensor:
    """Return a part of an array along its first axis as a float32 tensor.

    Args:
        values: samples of 16 bits, or floats; views of a pack, or in memory.
        start: first row.
        stop: first row left out; None = to the end.

    Returns:
        A copy of what lies in a pack; what is in memory is not copied.
    """
    part = values[start:stop]
    if part.dtype == np.int16:
        return torch.from_numpy(part * FULL_SCALE)
    if not part.flags.writeable:
        part = np.array(part, dtype=np.float32)
    return torch.from_numpy(part)


@dataclass(frozen=True)
class Samples:
    """A recording."""

    values: Array  # (T,) float32, or int16 out of a pack
    rate: int  # Hz
    peak: float  # largest |sample|

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Features:
    """What a voice is trained on, as arrays, float32."""

    units: Array  # (C, S)
    f0: Array  # (N,) Hz
    uv: Array  # (N,) 1 = voiced
    volume: Array | None  # (N,) linear RMS


@dataclass(frozen=True)
class Mels:
    """What only the diffusion model learns from, as arrays, float32."""

    mel: Array  # (N, M)
    aug_mel: Array  # (N, M)
    aug_volume: Array  # (N,)
    key_shift: float  # semitones


class ClipStore:
    """Reads clips. It may be handed to other processes, which share the packs.

    Args:
        settings: what features have to be made with.
        parts: what is read of a clip apart from its recording; a clip that lacks one of them in its
            pack is read from its files.
        packs: those that may be used; `open_store` finds them.
    """

    def __init__(
        self, settings: FeatureSettings, parts: Sequence[str] = (), packs: Iterable[Pack] = ()
    ) -> None:
        self.settings, self.parts = settings, tuple(parts)
        self.packs = {pack.path: pack for pack in packs}
        self._files = FeatureCache(settings)

    def packed(self, path: Path) -> tuple[Pack, PackedClip] | None:
        """Return where a clip lies in a pack; None = it is read from its files."""
        pack = self.packs.get(pack_path(path)) if self.packs else None
        clip = None if pack is None else pack.get(path)
        if pack is None or clip is None or not clip.has(("wav", *self.parts)):
            return None
        return pack, clip

    def length(self, path: Path) -> tuple[int, int]:
        """Return how many samples a clip has, and its rate in Hz; of files the header is read.

        Raises SvcError.
        """
        found = self.packed(path)
        if found is not None:
            return found[1].n_samples, found[1].rate
        info = audio_info(path)
        return info.n_samples, info.sr

    def samples(self, path: Path) -> Samples:
        """Return a recording. Raises SvcError."""
        found = self.packed(path)
        if found is not None:
            pack, clip = found
            return Samples(pack.array(clip, "wav"), clip.rate, clip.peak)
        wav, rate = read_audio(path)
        return Samples(wav, rate, peak_of(wav))

    def features(self, path: Path) -> Features:
        """Return the features of a recording. Raises SvcError like `FeatureCache.load`."""
        found = self.packed(path)
        if found is not None:
            pack, clip = found
            f0, uv = pack.array(clip, "f0")
            volume = pack.array(clip, "volume") if "volume" in clip.arrays else None
            return Features(pack.array(clip, "units").T, f0, uv, volume)
        loaded = self._files.load(path)
        if not bool(torch.isfinite(loaded.units).all()):
            raise not_numbers(path, "units")
        return Features(
            units=loaded.units.numpy(),
            f0=loaded.f0.numpy(),
            uv=loaded.uv.numpy(),
            volume=None if loaded.volume is None else loaded.volume.numpy(),
        )

    def mels(self, path: Path) -> Mels:
        """Return the mels of a recording. Raises SvcError like `FeatureCache.load_mels`."""
        found = self.packed(path)
        if found is not None:
            pack, clip = found
            augmented = pack.array(clip, "aug_mel")
            return Mels(
                mel=pack.array(clip, "mel"),
                aug_mel=augmented[:, :-1],
                aug_volume=pack.array(clip, "aug_volume"),
                key_shift=float(augmented[0, -1]),
            )
        loaded = self._files.load_mels(path)
        return Mels(
            mel=loaded.mel.numpy(),
            aug_mel=loaded.aug_mel.numpy(),
            aug_volume=loaded.aug_volume.numpy(),
            key_shift=loaded.key_shift,
        )

    def f0(self, path: Path) -> F0Track:
        """Return the pitch of a recording. Raises SvcError like `FeatureCache.load_f0`."""
        found = self.packed(path)
        if found is not None:
            pack, clip = found
            f0, uv = np.array(pack.array(clip, "f0"), dtype=np.float32)
            return F0Track(f0, uv)
        return self._files.load_f0(path)


def open_store(settings: FeatureSettings, parts: Sequence[str], paths: Iterable[Path]) -> ClipStore:
    """Return a store of clips, with the packs that lie beside them.

    Args:
        settings: what features have to be made with.
        parts: what is read of a clip apart from its recording.
        paths: the clips.

    Raises:
        DatasetError: a pack is damaged or of another version.
    """
    places = dict.fromkeys(pack_path(path) for path in paths)
    return ClipStore(settings, parts, [Pack(place) for place in places if place.is_file()])


def peak_of(wav: Array) -> float:
    """Return the largest |sample| of a recording, float32 (T,)."""
    return float(max(wav.max(initial=0.0), -wav.min(initial=0.0)))
