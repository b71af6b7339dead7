"""Clips of the mel vocoder: which there are, and what one recording gives to a batch.

A crop is cut out of a recording together with its F0, and its mel is measured with the sound around
the crop, so that it has no edges. Every random choice is drawn from (seed, epoch, index), so the
number of loader processes and the point of a resume change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from svc.config.vocoder_training import VocoderRunConfig
from svc.dataset.augment import draw_gain
from svc.dataset.feature_settings import FeatureSettings
from svc.dataset.filelist import audio_in, read_filelist, scan_speakers, split
from svc.dataset.store import ClipStore, Samples, open_store, take
from svc.errors import DatasetError, SvcError
from svc.progress import Progress
from svc.training.batches import Tensors
from svc.training.checks import CheckedList, look_over
from svc.training.clips import RAM_LIMIT_BYTES, Memory
from svc.vocoder.nsf_hifigan import log_mel_of

_ORDER_SEED = 1234  # of the order in which the clips of a folder are listed


@dataclass(frozen=True)
class VocoderClip:
    """One item of a batch, N frames of `hop` samples."""

    mel: Tensor  # (M, N) natural log
    f0: Tensor  # (N,) Hz, filled through unvoiced frames
    wav: Tensor  # (N * hop,) in [-1, 1]
    name: str


@dataclass(frozen=True)
class VocoderBatch(Tensors):
    """B crops of N frames."""

    mel: Tensor  # (B, M, N)
    f0: Tensor  # (B, N)
    wav: Tensor  # (B, 1, N * hop)
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def collate(clips: Sequence[VocoderClip | SvcError]) -> VocoderBatch | SvcError:
    """Put crops of equal length together, or return the first error among them."""
    good: list[VocoderClip] = []
    for clip in clips:
        if not isinstance(clip, VocoderClip):
            return clip
        good.append(clip)
    return VocoderBatch(
        mel=torch.stack([clip.mel for clip in good]),
        f0=torch.stack([clip.f0 for clip in good]),
        wav=torch.stack([clip.wav[None] for clip in good]),
        names=tuple(clip.name for clip in good),
    )


# ---- which clips there are -----------------------------------------------------------------------


@dataclass(frozen=True)
class Takes(CheckedList):
    """Recordings that were all found usable, with their pitch."""

    f0: list[Tensor] = field(default_factory=list)  # (N,) Hz each


def list_clips(dataset: Path) -> list[Path]:
    """Return the clips of a data set.

    Args:
        dataset: a file list; or a folder with one sub-folder of clips per voice; or the folder of
            one voice. The clips of folders come in an order that looks random and is always the
            same: the last ones are a fair sample.

    Raises:
        SvcError: there is nothing, or no clip in it.
    """
    if dataset.is_dir():
        try:
            voices = scan_speakers(dataset)
        except DatasetError:
            loose = audio_in(dataset)
            if not loose:
                raise
            voices = {dataset.name: loose}
        return split(voices, n_val=0, seed=_ORDER_SEED).train
    paths = read_filelist(dataset)
    if not paths:
        raise DatasetError(
            f"the file list {dataset} is empty; put recordings into dataset_raw/<voice>/ and run  "
            "svc resample  and  svc preprocess"
        )
    return paths


def hold_out(
    paths: Sequence[Path], validation: Path | None, count: int
) -> tuple[list[Path], list[Path]]:
    """Divide clips into those that are trained on and those that are only listened to.

    Args:
        paths: all clips.
        validation: a list or folder of clips to hold out, wherever they are; None = the last
            `count` of `paths`, of which one is left to train on.
        count: see `validation`.

    Returns:
        Training and validation clips.

    Raises:
        SvcError: the validation list is not there, or leaves nothing to train on.
    """
    if validation is None:
        cut = max(1, len(paths) - count)
        return list(paths[:cut]), list(paths[cut:])
    held = list_clips(validation)
    known = {path.resolve() for path in held}
    rest = [path for path in paths if path.resolve() not in known]
    if not rest:
        raise DatasetError(
            f"--validation {validation} holds every clip of the data set; leave some to train on"
        )
    return rest, held


def read_takes(config: VocoderRunConfig, listing: Path, paths: Sequence[Path]) -> Takes:
    """Check recordings by their headers and read their pitch, all before the first step.

    Args:
        config: the vocoder and its training.
        listing: where the paths are from, for messages.
        paths: recordings with the feature files of svc preprocess.

    Returns:
        Those long enough for a crop.

    Raises:
        SvcError: a file is missing or damaged, another rate or hop, features of another recording,
            or every clip is too short; names it and the next step.
    """
    vocoder, need = config.vocoder, config.segment_frames
    rate, hop = vocoder.sampling_rate, vocoder.hop_size
    # Whatever encoder the units are of: they are not looked at.
    settings = FeatureSettings(speech_encoder="", sampling_rate=rate, hop_length=hop)
    store = open_store(settings, ("f0",), paths)
    found = look_over(listing, paths, store)
    takes = Takes([], [], store=store, notes=found.notes, warnings=found.warnings)
    for path, length in zip(paths, found.frames, strict=True):
        track = store.f0(path)
        frames = min(length, len(track))
        if frames < need:
            takes.dropped.append(path)
            continue
        takes.paths.append(path)
        takes.frames.append(frames)
        takes.f0.append(torch.from_numpy(track.f0[:frames].copy()))
    if paths and not takes.paths:
        seconds = need * hop / rate
        raise DatasetError(
            f"the clips of {listing} are shorter than a crop of {need} frames ({seconds:.2f} s), "
            f"the first: {paths[0]}; take longer clips or lower --segment_frames"
        )
    return takes


# ---- what a clip gives ---------------------------------------------------------------------------


class VocoderDataset(Dataset["VocoderClip | SvcError"]):
    """Crops of the clips of a list: of each clip as many as fit into it side by side, so that an
    epoch goes through all of the sound, and a long clip counts for more than a short one.

    Args:
        config: the vocoder and its training.
        takes: the recordings.
        seed: start of every draw.
        limit: bytes of audio that are kept in memory without being asked to; None =
            `RAM_LIMIT_BYTES`.
    """

    def __init__(
        self, config: VocoderRunConfig, takes: Takes, *, seed: int = 0, limit: int | None = None
    ) -> None:
        self.config, self.takes, self.seed = config, takes, seed
        limit = RAM_LIMIT_BYTES if limit is None else limit
        size = 4 * config.vocoder.hop_size * sum(takes.frames)
        keep = config.train.all_in_mem or size <= limit
        self._store = takes.store or ClipStore(
            FeatureSettings("", config.vocoder.sampling_rate, config.vocoder.hop_size)
        )
        # What lies in packs need not be kept: see `plan_memory`.
        self.memory = Memory(clips=keep and not self._store.packs, specs=False)
        self._clip_of = [
            clip
            for clip, frames in enumerate(takes.frames)
            for _ in range(frames // config.segment_frames)
        ]
        self._mel = log_mel_of(config.vocoder)
        self._kept: dict[int, Samples] = {}

    def __len__(self) -> int:
        """Crops in one epoch."""
        return len(self._clip_of)

    def __getitem__(self, key: tuple[int, int]) -> VocoderClip | SvcError:
        """Return crop (epoch, index), or the error met.

        An exception that is raised across processes would lose its one line.
        """
        epoch, index = key
        try:
            return self.crop(index, epoch)
        except SvcError as error:
            return error

    def preload(self, progress: Progress | None = None) -> None:
        """Read every recording into memory. Raises SvcError for the first unusable one."""
        for index, path in enumerate(self.takes.paths):
            self._samples(index)
            if progress is not None:
                progress(index + 1, len(self.takes.paths), path.name)

    def crop(self, index: int, epoch: int) -> VocoderClip:
        """Return a random crop; with `train.vol_aug` every second one gets a random gain.

        The gain is 10^U(-1, min(1, h)), where h is what is left to full scale (spec_core 6.5).

        Args:
            index: number of the crop in its epoch.
            epoch: counts from 1.

        Returns:
            `config.segment_frames` frames.

        Raises:
            SvcError: the recording is no longer what it was.
        """
        rng = np.random.default_rng([self.seed, epoch, index])
        clip = self._clip_of[index]
        start = int(rng.integers(self.takes.frames[clip] - self.config.segment_frames + 1))
        samples, gain = self._samples(clip), 1.0
        if self.config.train.vol_aug and bool(rng.integers(2)):
            gain = draw_gain(rng, samples.peak)
        return self._cut(clip, samples, start, start + self.config.segment_frames, gain)

    def whole(self, clip: int, max_frames: int) -> VocoderClip:
        """Return a recording, by its place in the list, up to `max_frames` frames.

        Raises SvcError.
        """
        stop = min(self.takes.frames[clip], max_frames)
        return self._cut(clip, self._samples(clip), 0, stop, 1.0)

    def _cut(self, clip: int, samples: Samples, start: int, stop: int, gain: float) -> VocoderClip:
        vocoder = self.config.vocoder
        hop = vocoder.hop_size
        # A frame reaches half of (window - hop) beyond its hop on both sides.
        reach = -(-(vocoder.win_size - hop + 1) // (2 * hop))
        first, last = max(0, start - reach), min(self.takes.frames[clip], stop + reach)
        piece = take(samples.values, first * hop, last * hop) * gain
        mel = self._mel(piece[None])[0]
        return VocoderClip(
            mel=mel[:, start - first : stop - first],
            f0=self.takes.f0[clip][start:stop],
            wav=piece[(start - first) * hop : (stop - first) * hop],
            name=str(self.takes.paths[clip]),
        )

    def _samples(self, clip: int) -> Samples:
        kept = self._kept.get(clip)
        if kept is not None:
            return kept
        path, length = self.takes.paths[clip], self.takes.frames[clip]
        samples = self._store.samples(path)
        vocoder = self.config.vocoder
        if samples.rate != vocoder.sampling_rate or len(samples) < length * vocoder.hop_size:
            raise DatasetError(f"{path} has changed since the training began; begin again")
        if self.memory.clips:
            self._kept[clip] = samples
        return samples
