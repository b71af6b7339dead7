"""Units of a net of the wav2vec 2.0 family: any length, one clip or many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svc.devices import precision_dtype
from svc.speech.chunks import encode_in_windows, group_by_length, prepare_wave
from svc.speech.frontend import WaveMoments, frame_count
from svc.speech.precision import lower_precision
from svc.speech.wav2vec2 import Wav2Vec2

FIELD = 400  # samples that one frame hears
WINDOW_FRAMES = 1499  # 30 s; up to here a wave is encoded in one piece, as the original does
USUAL_SECONDS = 30.0
"""Longest input that is encoded in one pass, as the original does."""


@dataclass(frozen=True)
class _Batching:
    """How clips are put together."""

    seconds: int  # of a batch, padding included
    waste: float  # most padding as a share of it


# On a CPU a clip fills the threads by itself: clips of one length gain a tenth from a batch, and
# padding costs what it weighs. The front end needs about 15 MB per second of audio.
_ON_CPU = _Batching(seconds=30, waste=0.02)
_ELSEWHERE = _Batching(seconds=240, waste=0.25)
_RATE = 16000  # Hz


class Wav2Vec2Encoder:
    """Units of one layer of a net, optionally through its final projection.

    Args:
        net: the loaded net; its weights are moved to the device and cast in place.
        name: id of the encoder.
        layer: which layer is tapped, counted from 1; None: the end of the net.
        project: apply the final projection.
        padding: zeros put before and after a wave (hubert-soft: 40, so that there is one frame
            for each full 320 samples; spec_encoders 7).
        device: where to compute.
        precision: of the matrix products, see `svc.devices.PRECISIONS`; units are float32 always.
    """

    def __init__(
        self,
        net: Wav2Vec2,
        *,
        name: str,
        layer: int | None = None,
        project: bool = False,
        padding: int = 0,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        if project and net.final_projection is None:
            raise ValueError("the net has no final projection")
        self.name = name
        self.device = torch.device(device)
        self.dim = (net.config.projection_dim or 0) if project else net.config.dim
        self.usual_seconds = USUAL_SECONDS
        kept: list[nn.Module] = [net.frontend.first]
        if net.final_projection is not None:
            kept.append(net.final_projection)
        if net.position.weight.shape[1] % 16:
            # A grouped bfloat16 convolution with few channels per group is plainly wrong in the CPU
            # kernels of torch 2.13 (no released net has as few: 48 and 64).
            kept.append(net.position)
        lower_precision(net, precision_dtype(precision), keep=kept)
        self._net = net.to(self.device)
        self._layer = layer
        self._project = project
        self._padding = padding

    @property
    def net(self) -> Wav2Vec2:
        """The net, its weights in the precision and on the device it computes in."""
        return self._net

    def encode(self, wav16k: Tensor) -> Tensor:
        """Encode a wave of any length.

        Args:
            wav16k: (T,) samples at 16 kHz in [-1, 1]; below 400 samples it is zero-padded.

        Returns:
            (1, C, S) float32 on the encoder's device, S = floor((T + 2 padding - 400) / 320) + 1,
            at least 1. Up to 30 s one pass over the whole wave as in so-vits-svc 4.1; longer in
            overlapping windows (svc.speech.chunks), normalised by statistics of the whole wave.

        Raises:
            AudioError: NaN or infinite samples.
        """
        return self.encode_batch([wav16k])[0]

    @torch.no_grad()
    def encode_batch(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """Encode several waves: those of like length together, padded and masked.

        Args:
            wavs: (T_i,) each, as for `encode`.

        Returns:
            What `encode` returns for each, in their order; float32 rounding apart a clip's units
            do not depend on its neighbours.

        Raises:
            AudioError: NaN or infinite samples in any of them.
        """
        waves = [self._prepare(wav) for wav in wavs]
        counts = [frame_count(len(wave)) for wave in waves]
        units: list[Tensor | None] = [None] * len(waves)
        short = [i for i, count in enumerate(counts) if count <= WINDOW_FRAMES]
        batching = _ON_CPU if self.device.type == "cpu" else _ELSEWHERE
        most = batching.seconds * _RATE
        for group in group_by_length([len(waves[i]) for i in short], most, batching.waste):
            members = [short[k] for k in group]
            for i, encoded in zip(members, self._encode_padded([waves[i] for i in members])):
                units[i] = encoded[None, :, : counts[i]]
        for i, count in enumerate(counts):
            if units[i] is None:
                units[i] = self._encode_long(waves[i], count, most)
        return [item for item in units if item is not None]

    def _prepare(self, wav: Tensor) -> Tensor:
        """Check, pad, move, normalise: (T,) -> (T',) float32 on the device."""
        wave = prepare_wave(wav, FIELD - 2 * self._padding).to(self.device)
        if self._net.config.normalize_wave:
            wave = F.layer_norm(wave, wave.shape)
        return F.pad(wave, (self._padding, self._padding)) if self._padding else wave

    def _encode_padded(self, waves: Sequence[Tensor]) -> Tensor:
        """Encode a batch whose longest wave comes first: (T_i,) -> (B, C, S of the longest)."""
        longest = len(waves[0])
        batch = torch.stack([F.pad(wave, (0, longest - len(wave))) for wave in waves])
        lengths = torch.tensor([len(wave) for wave in waves])
        same = bool((lengths == longest).all())
        return self._run(batch, lengths=None if same else lengths)

    def _encode_long(self, wave: Tensor, n_frames: int, batch_samples: int) -> Tensor:
        """(T,) -> (1, C, n_frames)."""
        moments = WaveMoments.of([wave]) if self._net.frontend.needs_moments else None

        def encode(windows: Tensor) -> Tensor:
            shared = None if moments is None else moments.expand(len(windows))
            return self._run(windows, moments=shared)

        window_samples = (WINDOW_FRAMES - 1) * 320 + FIELD
        return encode_in_windows(
            wave,
            n_frames,
            encode,
            window=WINDOW_FRAMES,
            field=FIELD,
            at_once=max(1, batch_samples // window_samples),
        )

    def _run(
        self,
        batch: Tensor,
        *,
        lengths: Tensor | None = None,
        moments: WaveMoments | None = None,
    ) -> Tensor:
        """(B, T) -> (B, C, S) float32."""
        hidden: Tensor = self._net(batch, self._layer, lengths=lengths, moments=moments)
        if self._project and self._net.final_projection is not None:
            hidden = self._net.final_projection(hidden)
        return hidden.transpose(1, 2)
