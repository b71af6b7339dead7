"""rmvpe: pitch by a U-Net on the log-mel spectrogram (spec_f0 7)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from svc.audio.mel import LogMel, rmvpe_mel
from svc.audio.pitch import F0Track
from svc.devices import precision_dtype
from svc.errors import CheckpointError, MissingFileError
from svc.f0.high_register import READS_TO_HZ, choose, spans, suspects, whistle_spectrum
from svc.f0.own_grid import Frames, tracks_from_own_grid
from svc.f0.rmvpe_net import RmvpeNet, load_rmvpe
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave

logger = logging.getLogger(__name__)

_FILE = "rmvpe.pt"
_FIRST_CENTS = 1997.3794084376191  # of bin 0, above 10 Hz: 31.7 Hz
_CENTS_PER_BIN = 20.0
_REACH = 4  # bins on either side of the peak that the mean is taken over

# Longer audio is read in pieces that share context, to bound the memory:
#   |======== 59.52 s ========|
#                      |======== 59.52 s ========|       each takes over in the middle of the overlap
_PIECE = 5952  # frames, 100 per second
_OVERLAP = 192  # frames
_RATE = 16000  # Hz, what the net was trained on
_HOP = 160  # samples per frame
# Frames of context for the spectrum of a part of a wave: the window reaches 512 samples to either
# side of a frame's centre.
_CONTEXT = 4


@dataclass(frozen=True)
class Reading:
    """What the net says, 100 frames per second."""

    f0: Tensor  # (F,) Hz, 0 = unvoiced; on the CPU
    confidence: Tensor  # (F,) greatest salience of the frame, 0..1


def decode_salience(salience: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Weighted mean of the pitches around each frame's maximum (spec_f0 7.4).

    Args:
        salience: (..., n_bins) in [0, 1].
        threshold: frames whose maximum is not above it are unvoiced.

    Returns:
        (...) Hz, 0 = unvoiced; (...) the maximum.
    """
    cents, peak = mean_cents(salience)
    # A frame without any salience divides 0 by 0 there and is unvoiced here.
    f0 = torch.where(peak > threshold, 10 * torch.exp2(cents / 1200), 0.0)
    return f0, peak


def mean_cents(salience: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean around each frame's maximum, (...) cents above 10 Hz, NaN without any
    salience, and (...) the maximum.
    """
    n_bins = salience.shape[-1]
    peak, centre = salience.max(dim=-1, keepdim=True)
    index = centre + torch.arange(-_REACH, _REACH + 1, device=salience.device)
    inside = (index >= 0) & (index < n_bins)
    weights = salience.gather(-1, index.clamp(0, n_bins - 1)) * inside
    cents = (weights * _bin_cents(index.to(salience.dtype))).sum(-1) / weights.sum(-1)
    return cents, peak[..., 0]


def _bin_cents(index: Tensor) -> Tensor:
    return index * _CENTS_PER_BIN + _FIRST_CENTS


def bin_hz(n_bins: int) -> Tensor:
    """Return the pitch of every bin, (n_bins,) Hz."""
    return 10 * torch.exp2(_bin_cents(torch.arange(n_bins)) / 1200)


class RmvpePredictor:
    """Pitch by an RMVPE net.

    The net knows 31.7 to 2006 Hz; within that it looks only from f0_min to f0_max. Notes above 1040
    Hz, which it reads an octave low, are read a second time an octave down where the spectrum proves
    that they are there (`svc.f0.high_register`). Audio above a minute is read in pieces. Compat mode
    does none of these three, as so-vits-svc 4.1.

    Args:
        net: the loaded net.
        settings: range, threshold, rates.
        mel: its front end, at 16 kHz with 100 frames per second; None for rmvpe's.
        device: where to compute.
        high_register: correct notes that the net reads an octave low, if f0_max lies above 1040 Hz,
            so that any can be asked for.
        precision: of the convolutions, a name of `svc.devices.PRECISIONS`.

    Raises:
        ConfigError: unknown precision.
    """

    name = "rmvpe"

    def __init__(
        self,
        net: RmvpeNet,
        settings: F0Settings,
        *,
        mel: LogMel | None = None,
        device: torch.device | str = "cpu",
        high_register: bool = True,
        precision: str = "fp32",
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self.high_register = high_register and not settings.compat and settings.f0_max > READS_TO_HZ
        self._net = net.to(self.device).convolve_in(precision_dtype(precision))
        self._mel = mel or rmvpe_mel()

    @property
    def net(self) -> RmvpeNet:
        """The net, on the device it computes on."""
        return self._net

    @property
    def mel(self) -> LogMel:
        """What the net hears."""
        return self._mel

    def __call__(self, wav: npt.NDArray[np.float32] | F0Wave) -> F0Track:
        """Return the track of a wave: (T,) samples -> T // hop_length frames, with confidence.
        Raises AudioError for NaN samples.
        """
        return self.track_batch([wav])[0]

    def track_batch(self, wavs: Sequence[npt.NDArray[np.float32] | F0Wave]) -> list[F0Track]:
        """Return the tracks of several waves, each what it is alone.

        Waves that come to the same number of frames after the net's own padding (to 0.32 s) go
        through it together; none is padded for the sake of a batch, because the GRU would hear it.

        Args:
            wavs: each (T,) samples, of any lengths.

        Raises:
            AudioError: NaN or infinite samples.
        """

        def read(waves: Sequence[F0Wave]) -> list[tuple[Frames, Frames]]:
            readings = self._read_all(waves)
            return [(one.f0.numpy(), one.confidence.numpy()) for one in readings]

        return tracks_from_own_grid(self.settings, wavs, read)

    def raw_f0(self, wav: npt.NDArray[np.float32] | F0Wave) -> Reading:
        """Pitch on the net's own grid of 100 frames per second.

        Args:
            wav: (T,) samples at the settings' sampling rate, at least 100 ms.

        Returns:
            floor(T16 / 160) + 1 frames, T16 being T at 16 kHz.
        """
        return self._read_all([F0Wave.of(wav, self.settings.sampling_rate)])[0]

    @torch.no_grad()
    def _read_all(self, waves: Sequence[F0Wave]) -> list[Reading]:
        low, high = self.settings.f0_min, self.settings.f0_max
        readings = self._read([wave.at_16k(self.device) for wave in waves], low, high)
        if self.high_register:
            readings = [self._raise(wave, r) for wave, r in zip(waves, readings, strict=True)]
        return readings

    def _raise(self, wave: F0Wave, first: Reading) -> Reading:
        """Correct the frames of a reading that are an octave low; most waves have none and cost no
        second reading.
        """
        high = self.settings.f0_max
        normal = wave.at_16k(self.device)
        suspicious = np.zeros(len(first.f0), dtype=np.bool_)
        for part in _parts(suspicious):
            power = _spectrum(normal, part)
            suspicious[part] = suspects(power, first.f0[part].to(power), high)
        stretches = spans(suspicious)
        if not stretches:
            return first
        # Twice as many samples, read as if they were as many per second: an octave down and twice as
        # long, so every second frame of this reading belongs to one of the first.
        slow = wave.at_rate(2 * _RATE, self.device)
        cuts = [slow[:, 2 * _HOP * start : 2 * _HOP * stop] for start, stop in stretches]
        doubled, confidence = torch.zeros_like(first.f0), torch.zeros_like(first.confidence)
        again = self._read(cuts, self.settings.f0_min / 2, high / 2)
        for (start, stop), second in zip(stretches, again, strict=True):
            # Rounding of the two lengths may leave the last frame of the wave out.
            there = slice(start, min(stop, start + (len(second.f0) + 1) // 2))
            f0, sure = second.f0[::2][: stop - start], second.confidence[::2][: stop - start]
            # Where the net hears nothing the second time, its first reading is what is doubled.
            heard = f0 > 0
            doubled[there] = 2 * torch.where(heard, f0, first.f0[there])
            confidence[there] = torch.where(heard, sure, first.confidence[there])
        raised = np.zeros(len(first.f0), dtype=np.bool_)
        for part in _parts(raised):
            if doubled[part].any():
                power = _spectrum(normal, part)
                f0, f0_again = first.f0[part].to(power), doubled[part].to(power)
                raised[part] = choose(power, f0, f0_again, high)
        logger.debug("rmvpe: %d of %d frames raised an octave", raised.sum(), len(raised))
        where = torch.from_numpy(raised)
        return Reading(
            torch.where(where, doubled, first.f0), torch.where(where, confidence, first.confidence)
        )

    def _read(self, waves: Sequence[Tensor], low: float, high: float) -> list[Reading]:
        """Run the net over waves of any lengths.

        Args:
            waves: each (1, T) at 16 kHz.
            low: Hz, lowest pitch looked for.
            high: Hz, highest; compat mode ignores both.

        Returns:
            One reading per wave.
        """
        lengths = [wave.shape[-1] // _HOP + 1 for wave in waves]
        readings = [Reading(torch.zeros(n), torch.zeros(n)) for n in lengths]
        hz = bin_hz(self._net.config.n_bins)
        in_range = (((hz >= low) & (hz <= high)) | self.settings.compat).to(self.device)
        pieces = [
            _Piece(which, *bounds)
            for which, n in enumerate(lengths)
            for bounds in _cut(n, self._net.config.n_together, whole=self.settings.compat)
        ]
        for batch in _batches(pieces):
            mels = [self._piece_mel(waves[piece.wave], piece) for piece in batch]
            salience = self._net(torch.cat(mels)) * in_range
            f0, confidence = decode_salience(salience.float(), self.settings.threshold)
            f0, confidence = f0.cpu(), confidence.cpu()
            for row, piece in enumerate(batch):
                own = slice(piece.own.start - piece.start, piece.own.stop - piece.start)
                readings[piece.wave].f0[piece.own] = f0[row, own]
                readings[piece.wave].confidence[piece.own] = confidence[row, own]
        return readings

    def _piece_mel(self, wave: Tensor, piece: _Piece) -> Tensor:
        """Log-mel of one piece, (1, n_mels, piece.length)."""
        part = slice(piece.start, min(piece.start + piece.length, wave.shape[-1] // _HOP + 1))
        samples, lead = _samples_of(wave, part)
        mel = self._mel(samples)[..., lead : lead + part.stop - part.start]
        # The zeros after the end are no silence in a logarithm; the original pads so.
        return F.pad(mel, (0, piece.length - mel.shape[-1]))


@dataclass(frozen=True)
class _Piece:
    """A part of a wave that goes through the net at once."""

    wave: int  # which wave
    start: int  # its first frame
    length: int  # frames, a multiple of what the net needs
    own: slice  # the frames of the wave that it decides; the others are context or padding


def _cut(n_frames: int, together: int, *, whole: bool) -> list[tuple[int, int, slice]]:
    """Cut a wave into pieces of equal length that overlap: [(start, length, own frames)]."""
    padded = -(-n_frames // together) * together
    if whole or padded <= _PIECE:
        return [(0, padded, slice(0, n_frames))]
    starts = [*range(0, padded - _PIECE, _PIECE - _OVERLAP), padded - _PIECE]
    seams = [(a + _PIECE + b) // 2 for a, b in pairwise(starts)]
    own = [slice(a, b) for a, b in pairwise([0, *seams, n_frames])]
    return [(start, _PIECE, frames) for start, frames in zip(starts, own, strict=True)]


def _batches(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Group pieces of equal length, with at most as many frames as one long piece has."""
    by_length: dict[int, list[_Piece]] = {}
    for piece in pieces:
        by_length.setdefault(piece.length, []).append(piece)
    for length, group in by_length.items():
        size = max(1, _PIECE // length)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _parts(frames: npt.NDArray[np.bool_]) -> list[slice]:
    """Slices of a track that are short enough for their spectrum to be held in memory."""
    return [
        slice(start, min(start + _PIECE, len(frames))) for start in range(0, len(frames), _PIECE)
    ]


def _samples_of(wave: Tensor, part: slice) -> tuple[Tensor, int]:
    """Samples that the frames of a part are computed from.

    Args:
        wave: (1, T) at 16 kHz.
        part: frames.

    Returns:
        The samples (1, T'), and how many frames of theirs come before the part.
    """
    lead = min(part.start, _CONTEXT)
    first, last = (part.start - lead) * _HOP, (part.stop - 1 + _CONTEXT) * _HOP
    return wave[:, first : last if last < wave.shape[-1] else None], lead


def _spectrum(wave: Tensor, part: slice) -> Tensor:
    samples, lead = _samples_of(wave, part)
    return whistle_spectrum(samples)[:, lead : lead + part.stop - part.start]


def build_rmvpe(
    settings: F0Settings,
    *,
    device: torch.device | str = "cpu",
    pretrain_dir: Path,
    high_register: bool = True,
    precision: str = "fp32",
) -> RmvpePredictor:
    """Load the rmvpe.pt that the user has put into the pretrain folder.

    Args:
        settings: range, threshold, rates.
        device: where to compute.
        pretrain_dir: folder where rmvpe.pt is looked for.
        high_register: see `RmvpePredictor`.
        precision: see `RmvpePredictor`.

    Returns:
        The predictor.

    Raises:
        MissingFileError: the file is not there.
        CheckpointError: it cannot be used.
        ConfigError: unknown precision.
    """
    path = pretrain_dir / _FILE
    if not path.is_file():
        raise MissingFileError(
            f"rmvpe has no weights: {path} is missing (RMVPE pitch net, 368 MB, or 181 MB in half"
            " precision, from yxlllc's RMVPE release 230917, where it is called model.pt, or the RVC"
            " project): put it there under this name, or use fcpe, crepe, pm, dio or harvest instead"
        )
    net = load_rmvpe(path)
    mel = rmvpe_mel()
    if net.config.n_mels != mel.config.n_mels:
        raise CheckpointError(
            f"{path}: the net has {net.config.n_mels} mel bands, not {mel.config.n_mels}; it is not"
            " the rmvpe.pt of so-vits-svc 4.1"
        )
    logger.info("rmvpe: weights from %s", path)
    return RmvpePredictor(
        net, settings, mel=mel, device=device, high_register=high_register, precision=precision
    )
