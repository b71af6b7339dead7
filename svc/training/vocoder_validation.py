"""Held-out clips of a mel vocoder: sung back from their own mels and compared with the recording."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svc.audio.mel import stft_magnitude
from svc.audio.pitch import F0Track, cents
from svc.config.vocoder_training import VocoderRunConfig
from svc.f0.base import F0Predictor, build_f0_predictor
from svc.training.vocoder_clips import Takes, VocoderDataset
from svc.vocoder.generator import Generator
from svc.vocoder.nsf_hifigan import log_mel_of

MAX_SECONDS = 10.0  # of one clip
_SEED = 20221211  # of the source's noise, whatever the seed of a run: scores can be compared
_WINDOWS = (512, 1024, 2048)  # samples
_QUIET = 1e-7  # added to magnitudes; keeps the logarithm of silence finite


@dataclass(frozen=True)
class Score:
    """How far the clips as sung are from the recordings; the smaller the better."""

    mel: float
    """Mean |difference| of the vocoder's own log-mels."""
    stft: float
    """`stft_distance`."""
    f0_cents: float | None
    """Median |interval| of the pitch in frames voiced in both; None where there are none."""

    def scalars(self) -> dict[str, float]:
        """Return the numbers there are, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class SungBack:
    """A held-out clip as recorded and as sung from its mel, T = N * hop samples."""

    recorded: npt.NDArray[np.float32]  # (T,)
    made: npt.NDArray[np.float32]  # (T,)
    truth: npt.NDArray[np.float32]  # (M, N) log-mel of the recording
    mel: npt.NDArray[np.float32]  # (M, N) log-mel of what was made


class VocoderValidation:
    """The held-out clips of a run.

    Args:
        config: the vocoder and its training.
        takes: the clips; of each up to `MAX_SECONDS` count.
    """

    def __init__(self, config: VocoderRunConfig, takes: Takes) -> None:
        self._clips = VocoderDataset(config, takes)
        vocoder = config.vocoder
        self._max_frames = int(MAX_SECONDS * vocoder.sampling_rate / vocoder.hop_size)
        self._mel = log_mel_of(vocoder)

    def __len__(self) -> int:
        """Clips."""
        return len(self._clips.takes.paths)

    @property
    def measure(self) -> str:
        """Of which clips a score is: scores of others cannot be compared with it."""
        takes = self._clips.takes
        facts = [(path.as_posix(), n) for path, n in zip(takes.paths, takes.frames, strict=True)]
        return f"{zlib.crc32(repr(facts).encode('utf-8', 'surrogatepass')):08x}"

    @torch.no_grad()
    def sing(self, generator: Generator, device: torch.device) -> Iterator[SungBack]:
        """Sing every clip from its mel and its F0, with the same noise each time.

        Args:
            generator: in eval mode.
            device: where it is.
        """
        for index in range(len(self)):
            clip = self._clips.whole(index, self._max_frames)
            draws = torch.Generator().manual_seed(_SEED + index)
            wav = generator(clip.mel[None].to(device), clip.f0[None].to(device), generator=draws)
            made = wav[:, 0].float().cpu()
            yield SungBack(
                recorded=clip.wav.numpy(),
                made=made[0].numpy(),
                truth=clip.mel.numpy(),
                mel=self._mel(made)[0].numpy(),
            )


class Judge:
    """Adds clips up to a `Score`.

    Args:
        config: of the vocoder.
    """

    def __init__(self, config: VocoderRunConfig) -> None:
        vocoder = config.vocoder
        self._pitch: F0Predictor = build_f0_predictor(
            "pm", sampling_rate=vocoder.sampling_rate, hop_length=vocoder.hop_size
        )
        self._mels: list[float] = []
        self._stfts: list[float] = []
        self._cents: list[npt.NDArray[np.float64]] = []

    def add(self, clip: SungBack) -> None:
        """Compare one clip with its recording."""
        self._mels.append(float(np.abs(clip.truth - clip.mel).mean()))
        pair = torch.from_numpy(clip.recorded)[None], torch.from_numpy(clip.made)[None]
        self._stfts.append(stft_distance(*pair))
        recorded, made = (_sung(self._pitch(wav)) for wav in (clip.recorded, clip.made))
        self._cents.append(np.abs(cents(made, recorded)))

    def score(self) -> Score:
        """Return the mean over the clips; of pitch, the median over all their frames."""
        errors = np.concatenate(self._cents)
        errors = errors[np.isfinite(errors)]
        return Score(
            mel=float(np.mean(self._mels)),
            stft=float(np.mean(self._stfts)),
            f0_cents=float(np.median(errors)) if len(errors) else None,
        )


def stft_distance(recorded: Tensor, made: Tensor) -> float:
    """Multi-resolution STFT distance: spectral convergence plus the mean |difference| of the log
    magnitudes, averaged over windows of 512, 1024 and 2048 samples (Parallel WaveGAN,
    arXiv:1910.11480; its windows differ).

    Args:
        recorded: (B, T) samples.
        made: (B, T).

    Returns:
        0 for equal signals.
    """
    total = 0.0
    for window in _WINDOWS:
        true, ours = (
            stft_magnitude(wav, window, window // 4, window, center=True) + _QUIET
            for wav in (recorded, made)
        )
        convergence = torch.linalg.vector_norm(true - ours) / torch.linalg.vector_norm(true)
        total += float(convergence + (true.log() - ours.log()).abs().mean())
    return total / len(_WINDOWS)


def _sung(track: F0Track) -> npt.NDArray[np.float32]:
    """Return the pitch with 0 where it is unvoiced."""
    return np.where(track.uv > 0, track.f0, np.float32(0))
