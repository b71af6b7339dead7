"""Training clips: what one recording gives to a batch (spec_core 6.5).

A clip is read, checked, and cropped or made louder each time it is asked for. Every random choice is
drawn from (seed, epoch, index), so the number of loader processes and the point of a resume change
nothing; nor does it matter whether clips come from a pack or from their files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from svc.audio.frames import expand_units
from svc.audio.mel import linear_spectrogram
from svc.config import SvcConfig
from svc.dataset.augment import draw_gain
from svc.dataset.features import FeatureCache
from svc.dataset.pack import Array
from svc.dataset.store import ClipStore, Samples, take
from svc.errors import DatasetError, SvcError
from svc.progress import Progress

MAX_FRAMES = 800  # longer clips are cropped ...
CROP_FRAMES = 790  # ... to this many frames (spec_core 6.5)
RAM_LIMIT_BYTES = 2**30
"""Data sets whose clips take less than this are kept in memory without being asked to."""
_MIXING = ("linear", "area")  # modes of `expand_units` that compute new units out of several
SPEC_FLOOR = 1e-6  # added to the power of each bin before the root (spec_core 5.1)


@dataclass(frozen=True)
class Clip:
    """One item of a batch, N frames of `hop` samples."""

    units: Tensor  # (D, N)
    f0: Tensor  # (N,) Hz
    uv: Tensor  # (N,) 1 = voiced
    spec: Tensor  # (F, N) linear magnitude
    wav: Tensor  # (N * hop,) in [-1, 1]
    speaker: int
    volume: Tensor | None  # (N,) linear RMS
    name: str

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.f0.shape[0]


@dataclass(frozen=True)
class _Recording:
    """All of a recording's features, whole and unaugmented, in memory or in a pack."""

    units: Array  # (D, S) at the encoder's own rate
    f0: Array  # (N,)
    uv: Array
    volume: Array | None
    samples: Samples

    @property
    def frames(self) -> int:
        return len(self.f0)


@dataclass(frozen=True)
class Memory:
    """What of a data set is kept in memory."""

    clips: bool  # waveform and features
    specs: bool  # linear spectrograms

    def __str__(self) -> str:
        if self.clips:
            return "all" if self.specs else "clips"
        return "spectrograms" if self.specs else "nothing"


def plan_memory(
    config: SvcConfig, frames: Sequence[int], *, packed: bool = False, limit: int | None = None
) -> Memory:
    """Decide what fits in memory.

    Args:
        config: `train.all_in_mem` asks for everything.
        frames: length of each clip.
        packed: clips come from packs. They are not kept then: the system's page cache has what
            fits, once for all loader processes, and gives it back when memory is short.
        limit: bytes that may be used without being asked; None = `RAM_LIMIT_BYTES`.

    Returns:
        What to keep.
    """
    if config.train.all_in_mem:
        return Memory(clips=not packed, specs=True)
    limit = RAM_LIMIT_BYTES if limit is None else limit
    total = sum(frames)
    hop = config.data.hop_length
    units = 4 * config.model.ssl_dim * 50 * hop / config.data.sampling_rate  # 50 units a second
    clips = 0 if packed else total * (units + 4 * (hop + 3))
    specs = total * 4 * config.data.spec_channels
    return Memory(clips=not packed and clips <= limit, specs=clips + specs <= limit)


def stretch_units(units: Array, frames: int, start: int, stop: int, mode: str) -> Tensor:
    """Stretch a recording's units over its frames, as far as they are wanted.

    Args:
        units: (D, S), of which no more is read than is needed.
        frames: N of the whole recording.
        start: first frame wanted.
        stop: first frame not wanted.
        mode: `data.unit_interpolate_mode`.

    Returns:
        (D, stop - start): these frames of `expand_units`, bit for bit.
    """
    if mode in _MIXING:
        whole = torch.from_numpy(np.array(units, dtype=np.float32, order="C"))
        return expand_units(whole, frames, mode)[:, start:stop]
    # The other modes choose a unit for each frame: which one shows in what becomes of their numbers.
    numbers = torch.arange(units.shape[1], dtype=torch.float32)[None]
    places = expand_units(numbers, frames, mode)[0, start:stop].long()
    first, last = int(places[0]), int(places[-1])
    piece = torch.from_numpy(np.array(units[:, first : last + 1], dtype=np.float32, order="C"))
    return piece.index_select(1, places - first)


def scale_spec(spec: Tensor, gain: float) -> Tensor:
    """Return the linear spectrogram of a waveform multiplied by `gain`.

    spec = sqrt(|S|^2 + floor), so it scales exactly up to rounding, without another STFT.

    Args:
        spec: (..., F, N) magnitudes of `linear_spectrogram`.
        gain: factor of the waveform.

    Returns:
        (..., F, N).
    """
    power = (spec.square() - SPEC_FLOOR).clamp_min_(0.0)
    return power.mul_(gain * gain).add_(SPEC_FLOOR).sqrt_()


class ClipDataset(Dataset[Clip | SvcError]):
    """The clips of a file list.

    Args:
        config: the whole config.
        paths: recordings; the name of the folder is the speaker.
        augment: training: random crops, and gains when `train.vol_aug` is set. Otherwise crops
            start at the first frame.
        seed: start of every draw.
        memory: what is kept after the first read.
        store: reads the clips; None = from their files.
    """

    def __init__(
        self,
        config: SvcConfig,
        paths: Sequence[Path],
        *,
        augment: bool,
        seed: int = 0,
        memory: Memory | None = None,
        store: ClipStore | None = None,
    ) -> None:
        self.config, self.paths, self.augment, self.seed = config, list(paths), augment, seed
        self.memory = memory or Memory(clips=False, specs=False)
        self.store = store or ClipStore(FeatureCache.from_config(config).settings)
        self._kept: dict[int, _Recording] = {}
        self._specs: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes that are forked share what is kept; others would each get a copy of the
        spectrograms, and compute them faster than that.
        """
        if self.memory.clips:
            return dict(self.__dict__)
        return {**self.__dict__, "_specs": {}, "memory": Memory(clips=False, specs=False)}

    def __getitem__(self, key: tuple[int, int]) -> Clip | SvcError:
        """Return clip (epoch, index), or the error met.

        An exception that is raised across processes would lose its one line.
        """
        epoch, index = key
        try:
            return self.clip(index, epoch)
        except SvcError as error:
            return error

    def preload(self, progress: Progress | None = None) -> None:
        """Read every clip into memory. Raises SvcError for the first unusable one."""
        for index, path in enumerate(self.paths):
            recording = self._recording(index)
            self._spec(index, recording, 0, recording.frames)
            if progress is not None:
                progress(index + 1, len(self.paths), path.name)

    def clip(self, index: int, epoch: int) -> Clip:
        """Return a clip, cropped and augmented for an epoch.

        Args:
            index: position in the file list.
            epoch: counts from 1.

        Returns:
            The clip.

        Raises:
            SvcError: the recording or its features are missing or do not fit.
        """
        recording = self._recording(index)
        rng = np.random.default_rng([self.seed, epoch, index])
        gain = 1.0
        heads = bool(rng.integers(2))
        if self.augment and self.config.train.vol_aug and recording.volume is not None and heads:
            gain = draw_gain(rng, recording.samples.peak)
        start, stop = 0, recording.frames
        limit, keep = self._crop
        if stop > limit:
            start = int(rng.integers(stop - limit + 1)) if self.augment else 0
            stop = start + keep
        hop, mode = self.config.data.hop_length, self.config.data.unit_interpolate_mode
        spec = self._spec(index, recording, start, stop)
        wav = take(recording.samples.values, start * hop, stop * hop)
        volume = None if recording.volume is None else take(recording.volume, start, stop)
        if gain != 1.0:
            spec, wav = scale_spec(spec, gain), wav * gain
            volume = None if volume is None else volume * gain
        path = self.paths[index]
        return Clip(
            units=stretch_units(recording.units, recording.frames, start, stop, mode),
            f0=take(recording.f0, start, stop),
            uv=take(recording.uv, start, stop),
            spec=spec,
            wav=wav,
            speaker=self.config.spk[path.parent.name],
            volume=volume,
            name=str(path),
        )

    @property
    def _crop(self) -> tuple[int, int]:
        """Frames above which a clip is cropped, and to how many; validation keeps whole clips."""
        ours = self.config.train.crop_frames
        return (ours, ours) if ours and self.augment else (MAX_FRAMES, CROP_FRAMES)

    def _spec(self, index: int, recording: _Recording, start: int, stop: int) -> Tensor:
        if not self.memory.specs:
            return self._spectrogram(recording, start, stop)
        spec = self._specs.get(index)
        if spec is None:
            spec = self._spectrogram(recording, 0, recording.frames).contiguous()
            self._specs[index] = spec
        return spec[:, start:stop]

    def _spectrogram(self, recording: _Recording, start: int, stop: int) -> Tensor:
        """Frames start..stop of a recording's spectrogram, from no more samples than they need."""
        data = self.config.data
        # A frame reaches (n_fft - hop) / 2 samples beyond its hop on both sides.
        reach = -(-(data.filter_length - data.hop_length) // (2 * data.hop_length))
        first, last = max(0, start - reach), min(recording.frames, stop + reach)
        piece = take(recording.samples.values, first * data.hop_length, last * data.hop_length)
        spec = linear_spectrogram(
            piece[None],
            n_fft=data.filter_length,
            hop_length=data.hop_length,
            win_length=data.win_length,
        )[0]
        return spec[:, start - first : stop - first]

    def _recording(self, index: int) -> _Recording:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        recording = self._read(self.paths[index])
        if self.memory.clips:
            self._kept[index] = recording
        return recording

    def _read(self, path: Path) -> _Recording:
        data, model = self.config.data, self.config.model
        samples = self.store.samples(path)
        if samples.rate != data.sampling_rate:
            raise DatasetError(
                f"{path} has {samples.rate} Hz and the config says {data.sampling_rate} Hz; run  svc "
                "resample  and  svc preprocess  again"
            )
        features = self.store.features(path)
        if features.units.shape[0] != model.ssl_dim:
            raise DatasetError(
                f"the units of {path} are {features.units.shape[0]} wide and the config says "
                f"{model.ssl_dim} (speech_encoder {model.speech_encoder}); run  svc preprocess  "
                "again with the encoder of this config"
            )
        frames = min(features.f0.shape[0], len(samples) // data.hop_length)
        self._check_lengths(path, features.f0.shape[0], len(samples), frames)
        volume = None
        if model.vol_embedding:
            if features.volume is None or features.volume.shape[0] < frames:
                raise DatasetError(
                    f"{path}.vol.npy is missing or too short and the config has vol_embedding; run "
                    " svc preprocess  again"
                )
            volume = features.volume[:frames]
        return _Recording(
            units=features.units,
            f0=features.f0[:frames],
            uv=features.uv[:frames],
            volume=volume,
            samples=samples,
        )

    def _check_lengths(self, path: Path, f0_frames: int, samples: int, frames: int) -> None:
        hop = self.config.data.hop_length
        if f0_frames - frames >= 3 or samples - frames * hop >= 3 * hop:
            raise DatasetError(
                f"{path} has {samples // hop} frames of audio and {f0_frames} of f0: its feature "
                "files belong to another version of it; delete them and run  svc preprocess  again"
            )
        check_length(self.config, path, frames)


def check_length(config: SvcConfig, path: Path, frames: int) -> None:
    """Refuse a clip shorter than the decoder's training window (spec_core 10, D16).

    Raises:
        DatasetError: names the clip and both lengths.
    """
    if frames < config.segment_frames:
        need = config.train.segment_size / config.data.sampling_rate
        raise DatasetError(
            f"{path} is {frames * config.data.hop_length / config.data.sampling_rate:.2f} s long "
            f"and training needs {need:.2f} s; remove it from the file list or join it with "
            "another one"
        )
