"""fcpe: pitch by a small net on the log-mel spectrogram (spec_f0 8)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svc.audio.mel import LogMel
from svc.audio.pitch import F0Track
from svc.errors import MissingFileError
from svc.f0.fcpe_net import FcpeNet, load_fcpe
from svc.f0.own_grid import tracks_from_own_grid
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave
from svc.pretrained import torchfcpe_asset

logger = logging.getLogger(__name__)

_FILE = "fcpe.pt"
_REACH = 4  # bins on either side of the peak that the mean is taken over
_TOGETHER = 6000  # frames that go through the net at once, where there are several waves

Track = npt.NDArray[np.float32]
Wave = Track | F0Wave


def decode_salience(salience: Tensor, cent_table: Tensor, threshold: float) -> Tensor:
    """Weighted mean of the pitches around each frame's maximum ("local_argmax").

    Bins beyond the ends of the table repeat its end bins, as in the original.

    Args:
        salience: (..., n_bins) in [0, 1].
        cent_table: (n_bins,) cents above 10 Hz.
        threshold: frames whose maximum is not above it are unvoiced.

    Returns:
        (...) Hz, 0 = unvoiced.
    """
    cents, peak = mean_cents(salience, cent_table)
    # A frame without any salience divides 0 by 0 there and is unvoiced here.
    return torch.where(peak > threshold, 10 * torch.exp2(cents / 1200), 0.0)


def mean_cents(salience: Tensor, cent_table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean around each frame's maximum, (...) cents above 10 Hz, NaN without any
    salience, and (...) the maximum. Arguments as `decode_salience`.
    """
    peak, centre = salience.max(dim=-1, keepdim=True)
    reach = torch.arange(-_REACH, _REACH + 1, device=salience.device)
    index = (centre + reach).clamp(0, len(cent_table) - 1)
    weights = salience.gather(-1, index)
    return (weights * cent_table[index]).sum(-1) / weights.sum(-1), peak[..., 0]


class FcpePredictor:
    """Pitch by an FCPE net.

    The net knows 32.7 to 1975.5 Hz; within that it looks only from f0_min to f0_max, or everywhere
    in compat mode, as so-vits-svc 4.1 does.

    Args:
        net: the loaded net.
        mel: its front end.
        settings: range, threshold, rates.
        device: where to compute.
    """

    name = "fcpe"

    def __init__(
        self,
        net: FcpeNet,
        mel: LogMel,
        settings: F0Settings,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self._net = net.to(self.device)
        self._mel = mel
        low, high = (1200 * math.log2(hz / 10) for hz in (settings.f0_min, settings.f0_max))
        table = self._net.cent_table
        self._in_range = ((table >= low) & (table <= high)) | settings.compat

    @property
    def net(self) -> FcpeNet:
        """The net, on the device it computes on."""
        return self._net

    @property
    def mel(self) -> LogMel:
        """What the net hears."""
        return self._mel

    def __call__(self, wav: Wave) -> F0Track:
        """Return the track of a wave: (T,) samples -> T // hop_length frames, with confidence.
        Raises AudioError for NaN samples.
        """
        return self.track_batch([wav])[0]

    def track_batch(self, wavs: Sequence[Wave]) -> list[F0Track]:
        """Return the tracks of several waves, each what it is alone.

        Waves of as many frames go through the net together; none is padded for the sake of a batch,
        because the net's normalisation over time would see it.

        Args:
            wavs: each (T,) samples, of any lengths.

        Raises:
            AudioError: NaN or infinite samples.
        """
        return tracks_from_own_grid(self.settings, wavs, self._read)

    def raw_f0(self, wav: Wave) -> npt.NDArray[np.float32]:
        """Pitch on the net's own grid of 100 frames per second.

        Args:
            wav: (T,) samples at the settings' sampling rate, at least 100 ms.

        Returns:
            (floor(T16 / 160) + 1,) Hz, 0 = unvoiced, T16 being T at 16 kHz.
        """
        return self._read([F0Wave.of(wav, self.settings.sampling_rate)])[0][0]

    @torch.no_grad()
    def _read(self, waves: Sequence[F0Wave]) -> list[tuple[Track, Track]]:
        """Pitch and confidence of each wave on the net's own grid."""
        rate = self._mel.config.sampling_rate
        mels = [self._mel(wave.at_rate(rate, self.device)) for wave in waves]
        by_length: dict[int, list[int]] = {}
        for i, mel in enumerate(mels):
            by_length.setdefault(mel.shape[-1], []).append(i)
        readings: dict[int, tuple[Track, Track]] = {}
        for length, group in by_length.items():
            size = max(1, _TOGETHER // length)
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                salience = self._net(torch.cat([mels[i] for i in batch])) * self._in_range
                f0 = decode_salience(salience, self._net.cent_table, self.settings.threshold)
                confidence = salience.amax(dim=-1).cpu().numpy()
                readings.update(zip(batch, zip(f0.cpu().numpy(), confidence, strict=True)))
        return [readings[i] for i in range(len(waves))]


def build_fcpe(
    settings: F0Settings, *, device: torch.device | str = "cpu", pretrain_dir: Path
) -> FcpePredictor:
    """Load the fcpe.pt of so-vits-svc 4.1 where the user has put one, else the weights inside the
    torchfcpe package.

    The two are different nets with close results; the log says which one runs.

    Args:
        settings: range, threshold, rates.
        device: where to compute.
        pretrain_dir: folder where fcpe.pt is looked for.

    Returns:
        The predictor.

    Raises:
        MissingFileError: neither is there.
        CheckpointError: the file cannot be used; a bad fcpe.pt is not passed over.
    """
    path: Path | None = pretrain_dir / _FILE
    if path is None or not path.is_file():
        path = torchfcpe_asset()
    if path is None:
        raise MissingFileError(
            f"fcpe has no weights: there is neither {pretrain_dir / _FILE} (FCPE pitch net of"
            " so-vits-svc 4.1) nor fcpe_c_v001.pt in an installed Python package torchfcpe: put the"
            " file there, or run  pip install torchfcpe , or use pm, dio or harvest, which need no"
            " weights"
        )
    net, mel = load_fcpe(path)
    kind = "attention, so-vits-svc 4.1" if net.config.attention_dim else "convolutions only"
    logger.info("fcpe: weights from %s (%s)", path, kind)
    return FcpePredictor(net, mel, settings, device=device)
