"""Clips of the diffusion model: what one recording gives to a batch (spec_diffusion 11).

Every random choice is drawn from (seed, epoch, index), so the number of loader processes and the
point of a resume change nothing; nor does it matter whether clips come from a pack or from their
files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from svc.config import DiffusionConfig
from svc.dataset.feature_settings import FeatureSettings
from svc.dataset.store import ClipStore, Features, Mels, take
from svc.errors import DatasetError, SvcError
from svc.progress import Progress
from svc.training.batches import Tensors
from svc.training.clips import stretch_units


@dataclass(frozen=True)
class DiffusionClip:
    """One item of a batch, N frames."""

    mel: Tensor  # (N, M) natural log
    units: Tensor  # (N, U)
    f0: Tensor  # (N,) Hz
    volume: Tensor  # (N,) linear RMS
    speaker: int
    aug_shift: float  # semitones by which it was shifted; 0 = not at all
    name: str


@dataclass(frozen=True)
class DiffusionBatch(Tensors):
    """B clips of N frames."""

    mel: Tensor  # (B, N, M)
    units: Tensor  # (B, N, U)
    f0: Tensor  # (B, N)
    volume: Tensor  # (B, N)
    speaker: Tensor  # (B,) int64
    aug_shift: Tensor  # (B,)
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def collate(clips: Sequence[DiffusionClip | SvcError]) -> DiffusionBatch | SvcError:
    """Put clips of equal length together, or return the first error among them."""
    good: list[DiffusionClip] = []
    for clip in clips:
        if not isinstance(clip, DiffusionClip):
            return clip
        good.append(clip)
    return batch_of(good)


def batch_of(clips: Sequence[DiffusionClip]) -> DiffusionBatch:
    """Put clips of equal length together."""
    device = clips[0].f0.device
    return DiffusionBatch(
        mel=torch.stack([clip.mel for clip in clips]),
        units=torch.stack([clip.units for clip in clips]),
        f0=torch.stack([clip.f0 for clip in clips]),
        volume=torch.stack([clip.volume for clip in clips]),
        speaker=torch.tensor([clip.speaker for clip in clips], device=device),
        aug_shift=torch.tensor([clip.aug_shift for clip in clips], device=device),
        names=tuple(clip.name for clip in clips),
    )


@dataclass(frozen=True)
class _Part:
    """A stretch of a recording, N frames."""

    mel: Tensor  # (N, M), perhaps in half precision
    units: Tensor  # (N, U), stretched to the frames, of the same precision
    f0: Tensor  # (N,)
    volume: Tensor  # (N,)
    key_shift: float  # of the mel, semitones

    def each(self, change: Callable[[Tensor], Tensor]) -> _Part:
        """Return it with all tensors changed."""
        return _Part(
            mel=change(self.mel),
            units=change(self.units),
            f0=change(self.f0),
            volume=change(self.volume),
            key_shift=self.key_shift,
        )


@dataclass(frozen=True)
class _Recording:
    """All of a recording's features, of which a part costs no more than that part."""

    features: Features
    mels: Mels
    frames: int
    mode: str  # `data.unit_interpolate_mode`

    def part(self, start: int, stop: int, *, augmented: bool) -> _Part:
        units = stretch_units(self.features.units, self.frames, start, stop, self.mode)
        mels, volume = self.mels, self.features.volume
        if augmented or volume is None:
            volume = mels.aug_volume
        return _Part(
            mel=take(mels.aug_mel if augmented else mels.mel, start, stop),
            units=units.T.contiguous(),
            f0=take(self.features.f0, start, stop),
            volume=take(volume, start, stop),
            key_shift=mels.key_shift if augmented else 0.0,
        )


@dataclass(frozen=True)
class _Kept:
    """All of a recording's features in memory, ready to be cut."""

    plain: _Part
    changed: _Part  # in pitch and loudness; its units and F0 are those of `plain`

    @property
    def frames(self) -> int:
        return self.plain.f0.shape[0]

    def part(self, start: int, stop: int, *, augmented: bool) -> _Part:
        source = self.changed if augmented else self.plain
        return source.each(lambda values: values[start:stop])


@dataclass(frozen=True)
class Cache:
    """Where the clips are kept after they were read: `train.cache_*` of the config."""

    device: torch.device
    half: bool  # mels and units in float16

    def rounded(self, part: _Part) -> _Part:
        """Return a part with what is large in the precision that it is kept in."""
        kind = torch.float16 if self.half else torch.float32
        return replace(part, mel=part.mel.to(kind), units=part.units.to(kind))

    def keep(self, recording: _Recording) -> _Kept:
        """Return a recording as it is kept."""
        plain, changed = (
            self.rounded(recording.part(0, recording.frames, augmented=augmented))
            for augmented in (False, True)
        )
        plain = plain.each(lambda values: values.to(self.device))
        mel, volume = changed.mel.to(self.device), changed.volume.to(self.device)
        return _Kept(plain, replace(plain, mel=mel, volume=volume, key_shift=changed.key_shift))


def crop_frames(config: DiffusionConfig) -> int:
    """Return the frames of a training crop: `data.duration` seconds, rounded down."""
    data = config.data
    # Without the grain of salt 0.4 s of 8 ms frames would be 49 of them.
    return math.floor(data.duration * data.sampling_rate / data.block_size + 1e-6)


class DiffusionDataset(Dataset["DiffusionClip | SvcError"]):
    """The clips of a file list.

    Args:
        config: the whole config.
        settings: what the features have to be made with.
        paths: recordings; the name of the folder is the speaker.
        seed: start of every draw.
        cache: where clips are kept; None reads them each time. What lies in packs is not kept in
            the memory of the CPU, see `svc.training.clips.plan_memory`; only its rounding is done.
        store: reads the clips; None = from their files.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        settings: FeatureSettings,
        paths: Sequence[Path],
        *,
        seed: int = 0,
        cache: Cache | None = None,
        store: ClipStore | None = None,
    ) -> None:
        self.config, self.paths, self.seed, self.cache = config, list(paths), seed, cache
        self.store = store or ClipStore(settings)
        self._crop = crop_frames(config)
        self._kept: dict[int, _Kept] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> DiffusionClip | SvcError:
        """Return clip (epoch, index), or the error met.

        An exception that is raised across processes would lose its one line.
        """
        epoch, index = key
        try:
            return self.crop(index, epoch)
        except SvcError as error:
            return error

    @property
    def keeps(self) -> Cache | None:
        """Where clips are kept indeed; None = nowhere."""
        paged = self.cache is not None and self.cache.device.type == "cpu" and self.store.packs
        return None if paged else self.cache

    def preload(self, progress: Progress | None = None) -> int:
        """Read every clip into memory; returns the bytes it takes.

        Raises:
            SvcError: a clip is unusable, or the memory of the GPU is too small.
        """
        size = 0
        for index, path in enumerate(self.paths):
            try:
                clip = self._recording(index)
            except torch.cuda.OutOfMemoryError as error:
                raise DatasetError(
                    f"the GPU's memory holds {index} of {len(self)} clips; set "
                    '"train.cache_device" to cpu'
                ) from error
            if isinstance(clip, _Kept):
                parts = [*vars(clip.plain).values(), clip.changed.mel, clip.changed.volume]
                tensors = (value for value in parts if isinstance(value, Tensor))
                size += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            if progress is not None:
                progress(index + 1, len(self.paths), path.name)
        return size

    def crop(self, index: int, epoch: int) -> DiffusionClip:
        """Return a random crop of a clip, every second time of its augmented version.

        Args:
            index: position in the file list.
            epoch: counts from 1.

        Returns:
            `crop_frames` frames.

        Raises:
            SvcError: the recording or its features are missing or do not fit.
        """
        recording = self._recording(index)
        if recording.frames < self._crop:
            raise too_short(self.paths[index], recording.frames, self.config)
        rng = np.random.default_rng([self.seed, epoch, index])
        start = int(rng.integers(recording.frames - self._crop + 1))
        return self._clip(index, recording, start, self._crop, augmented=bool(rng.integers(2)))

    def whole(self, index: int, max_frames: int) -> DiffusionClip:
        """Return a clip as it is, up to `max_frames` frames. Raises SvcError like `crop`."""
        recording = self._recording(index)
        return self._clip(index, recording, 0, min(recording.frames, max_frames), augmented=False)

    def _clip(
        self,
        index: int,
        recording: _Recording | _Kept,
        start: int,
        length: int,
        *,
        augmented: bool,
    ) -> DiffusionClip:
        part = recording.part(start, start + length, augmented=augmented)
        if self.cache is not None:
            part = self.cache.rounded(part)
        path = self.paths[index]
        return DiffusionClip(
            mel=part.mel,
            units=part.units,
            f0=part.f0 * 2.0 ** (part.key_shift / 12.0) if augmented else part.f0,
            volume=part.volume,
            speaker=self.config.spk[path.parent.name] if self.config.model.n_speakers > 1 else 0,
            aug_shift=part.key_shift,
            name=str(path),
        )

    def _recording(self, index: int) -> _Recording | _Kept:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        recording = self._read(self.paths[index])
        if self.keeps is None:
            return recording
        self._kept[index] = self.keeps.keep(recording)
        return self._kept[index]

    def _read(self, path: Path) -> _Recording:
        data = self.config.data
        features, mels = self.store.features(path), self.store.mels(path)
        if features.units.shape[0] != data.encoder_out_channels:
            raise DatasetError(
                f"the units of {path} are {features.units.shape[0]} wide and the config says "
                f"{data.encoder_out_channels} (data.encoder {data.encoder}); run  svc preprocess  "
                "again with the encoder of this config"
            )
        if features.volume is None:
            raise DatasetError(f"{path}.vol.npy is missing; run  svc preprocess --stage features")
        lengths = [len(features.f0), len(features.volume), len(mels.mel), len(mels.aug_volume)]
        frames = min(lengths)
        if max(lengths) - frames >= 3:
            raise DatasetError(
                f"{path} has {lengths[0]} frames of f0 and {lengths[2]} of mel: its feature files "
                "belong to several versions of it; delete them and run  svc preprocess --use_diff"
            )
        return _Recording(features, mels, frames, data.unit_interpolate_mode)


def too_short(path: Path, frames: int, config: DiffusionConfig) -> DatasetError:
    """Return the error for a clip that no crop fits into."""
    data = config.data
    seconds = frames * data.block_size / data.sampling_rate
    return DatasetError(
        f"{path} is {seconds:.2f} s long and a training crop is {data.duration:g} s "
        "(data.duration); join clips, or make it shorter"
    )
