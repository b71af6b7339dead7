"""The enhancer: finished audio is sung again by a mel vocoder (``svc infer -eh``, spec_vocoder 6).

What the voice has made becomes a mel, and the vocoder makes samples of the mel and the melody. With
an adaptive key of a semitones all of it is heard slower and lower by that much, and what comes out
made faster and higher again, so that notes above those of the vocoder's training come into its
reach; negative keys do the same for notes below.

How the default differs from so-vits-svc 4.1 (spec_vocoder 7; `compat=True` gives the original's
arithmetic):

* The result is exactly as long as the input: the last part of a frame is filled up by reflection,
  where the original leaves it out.
* V2: the result has the input's rate whatever the vocoder's, by one resampling; with `compat` it is
  made at the vocoder's rate as in the original and then resampled, never written at a wrong rate.
* Key 0 is the vocoder's own rate also where that is no multiple of 100 Hz.
* V5: random numbers come from a generator that the caller has seeded.

The melody has no gaps (V3), so the vocoder's noise for unvoiced sounds is hardly used: breaths and
consonants keep what the mel tells of them and get a pitch underneath. That is the original's sound,
and kept. Its `silence_front`, which it never sets, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from svc.audio.resample import sinc_resample
from svc.vocoder.nsf_hifigan import NsfHifigan, load_vocoder

_LOWPASS_WIDTH = 128  # zero crossings of the sinc in front of a vocoder and behind it
_RATE_STEP = 100  # Hz; keeps the resampler's ratio small


@dataclass(frozen=True)
class Enhancer:
    """A mel vocoder that goes over finished audio.

    Attributes:
        vocoder: in evaluation mode, on its device.
        compat: lengths and roundings of so-vits-svc 4.1.
    """

    vocoder: NsfHifigan
    compat: bool = False

    def rate(self, adaptive_key: float) -> int:
        """Hz of the audio that the vocoder takes for audio at its own rate."""
        own = self.vocoder.sampling_rate
        if adaptive_key == 0 and not self.compat:
            return own
        return _RATE_STEP * round(own / 2 ** (-adaptive_key / 12) / _RATE_STEP)

    def __call__(
        self,
        wav: Tensor,
        sr: int,
        f0: Tensor,
        hop_length: int,
        *,
        adaptive_key: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sing a wav again.

        Args:
            wav: (T,) samples in [-1, 1].
            sr: its rate, Hz.
            f0: (N,) Hz, its melody; not changed.
            hop_length: samples of `wav` per frame of `f0`.
            adaptive_key: semitones by which the vocoder hears it lower.
            generator: CPU generator of the vocoder's random part; None = the global ones.

        Returns:
            (T,) at `sr`. With `compat` as long as the original's: 44032, 43952 and 43790 samples of
            44100 at 44.1 kHz with the keys 0, 3 and -5.
        """
        vocoder, rate = self.vocoder, self.rate(adaptive_key)
        heard = sinc_resample(wav, sr, rate, lowpass_width=_LOWPASS_WIDTH)
        if not self.compat:
            heard = _whole_frames(heard, vocoder.hop_length)
        mel = vocoder.mel(heard[None])
        melody = self._melody(f0, hop_length / sr, rate, mel.shape[2])
        sung = vocoder(mel, melody[None], generator=generator)[0]
        if not self.compat:
            back = sinc_resample(sung, rate, sr, lowpass_width=_LOWPASS_WIDTH)
            return back[: wav.shape[0]]
        at_own = sinc_resample(sung, rate, vocoder.sampling_rate, lowpass_width=_LOWPASS_WIDTH)
        return sinc_resample(at_own, vocoder.sampling_rate, sr, lowpass_width=_LOWPASS_WIDTH)

    def _melody(self, f0: Tensor, frame_seconds: float, rate: int, n_frames: int) -> Tensor:
        """Put f0 (N,) on the vocoder's frames, slowed down as the audio is: (n_frames,) Hz."""
        factor = self.vocoder.sampling_rate / rate
        known = f0.detach().float().cpu().numpy()
        times = np.arange(known.size) * frame_seconds / factor
        wanted = np.arange(n_frames) * self.vocoder.hop_length / self.vocoder.sampling_rate
        melody = np.interp(wanted, times, known * factor).astype(np.float32)
        return torch.from_numpy(melody).to(f0.device)


def _whole_frames(wav: Tensor, hop_length: int) -> Tensor:
    """Fill (T,) up to a multiple of the hop, by reflection where there is enough to reflect."""
    missing = -wav.shape[0] % hop_length
    mode = "reflect" if missing < wav.shape[0] else "constant"
    filled: Tensor = F.pad(wav[None], (0, missing), mode=mode)[0]
    return filled


def load_enhancer(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    compat: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Enhancer:
    """Load the vocoder of an enhancer.

    Args:
        path: as for `load_vocoder`.
        device: where it shall live.
        compat: see `Enhancer`.
        dtype: of the wide convolutions, see `NsfHifigan.settle`.

    Raises:
        MissingFileError: a file is not there; says where it comes from and where it goes.
        ConfigError: its config is damaged or impossible.
        CheckpointError: its weights are damaged, refused, or another config's.
    """
    vocoder = load_vocoder(path, device=device)
    vocoder.settle(dtype)
    return Enhancer(vocoder, compat)
