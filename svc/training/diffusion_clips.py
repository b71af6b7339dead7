"""Clips of the diffusion model: what one recording gives to a batch (spec_diffusion 11).

Every random choice is drawn from (seed, epoch, index), so the number of loader processes and the
point of a resume change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from svc.audio.frames import expand_units
from svc.config import DiffusionConfig
from svc.dataset.feature_settings import FeatureSettings
from svc.dataset.features import FeatureCache
from svc.errors import DatasetError, SvcError
from svc.progress import Progress
from svc.training.batches import Tensors


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
class _Recording:
    """All of a recording's features."""

    mel: Tensor  # (N, M)
    aug_mel: Tensor  # (N, M)
    units: Tensor  # (N, U), stretched to the frames
    f0: Tensor
    volume: Tensor
    aug_volume: Tensor
    key_shift: float  # of the augmented mel, semitones

    @property
    def frames(self) -> int:
        return self.f0.shape[0]

    def kept(self, device: torch.device, half: bool) -> _Recording:
        """Return it as it is kept in memory: what is large in half precision."""
        kind = torch.float16 if half else torch.float32
        large = {name: getattr(self, name).to(device, kind) for name in ("mel", "aug_mel", "units")}
        small = {name: getattr(self, name).to(device) for name in ("f0", "volume", "aug_volume")}
        return replace(self, **large, **small)


@dataclass(frozen=True)
class Cache:
    """Where the clips are kept after they were read: `train.cache_*` of the config."""

    device: torch.device
    half: bool  # mels and units in float16


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
        cache: where clips are kept; None reads them each time.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        settings: FeatureSettings,
        paths: Sequence[Path],
        *,
        seed: int = 0,
        cache: Cache | None = None,
    ) -> None:
        self.config, self.paths, self.seed, self.cache = config, list(paths), seed, cache
        self._crop = crop_frames(config)
        self._features = FeatureCache(settings)
        self._kept: dict[int, _Recording] = {}

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
            tensors = (value for value in vars(clip).values() if isinstance(value, Tensor))
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
        self, index: int, recording: _Recording, start: int, length: int, *, augmented: bool
    ) -> DiffusionClip:
        part, path = slice(start, start + length), self.paths[index]
        f0, shift = recording.f0[part], recording.key_shift
        return DiffusionClip(
            mel=(recording.aug_mel if augmented else recording.mel)[part],
            units=recording.units[part],
            f0=f0 * 2.0 ** (shift / 12.0) if augmented else f0,
            volume=(recording.aug_volume if augmented else recording.volume)[part],
            speaker=self.config.spk[path.parent.name] if self.config.model.n_speakers > 1 else 0,
            aug_shift=shift if augmented else 0.0,
            name=str(path),
        )

    def _recording(self, index: int) -> _Recording:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        recording = self._read(self.paths[index])
        if self.cache is not None:
            recording = recording.kept(self.cache.device, self.cache.half)
            self._kept[index] = recording
        return recording

    def _read(self, path: Path) -> _Recording:
        data = self.config.data
        features, mels = self._features.load(path), self._features.load_mels(path)
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
        units = expand_units(features.units, frames, data.unit_interpolate_mode)
        recording = _Recording(
            mel=mels.mel[:frames],
            aug_mel=mels.aug_mel[:frames],
            units=units.T.contiguous(),  # frame after frame: a crop is one stretch of memory
            f0=features.f0[:frames],
            volume=features.volume[:frames],
            aug_volume=mels.aug_volume[:frames],
            key_shift=mels.key_shift,
        )
        if not bool(torch.isfinite(recording.units).all()):
            raise DatasetError(
                f"the units of {path} hold values that are not numbers; delete its feature files "
                "and run  svc preprocess --use_diff"
            )
        return recording


def too_short(path: Path, frames: int, config: DiffusionConfig) -> DatasetError:
    """Return the error for a clip that no crop fits into."""
    data = config.data
    seconds = frames * data.block_size / data.sampling_rate
    return DatasetError(
        f"{path} is {seconds:.2f} s long and a training crop is {data.duration:g} s "
        "(data.duration); join clips, or make it shorter"
    )
