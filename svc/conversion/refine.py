"""Diffusion in a conversion: going over what a voice has sung, or singing alone (spec_diffusion 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from svc.config import SvcConfig, check_vocoder, load_diffusion_config
from svc.config.pairs import check_pair
from svc.conversion.chunks import FloatArray
from svc.conversion.options import DiffusionChoice, InferOptions
from svc.devices import inference_dtype
from svc.diffusion.chunks import Chunk, batches
from svc.diffusion.loading import load_diffusion
from svc.diffusion.unit2mel import Unit2Mel
from svc.errors import ConfigError
from svc.vocoder.nsf_hifigan import NsfHifigan, load_vocoder

_CPU_FRAMES, _GPU_FRAMES = 2048, 16384
"""Frames of a batch: more gain nothing on a CPU, whose threads one long stretch fills; 16384 hold 1.3 GB
of the usual denoiser's constants.
"""


@dataclass(frozen=True)
class Stretch:
    """What `Refiner.sing_many` is told of one stretch of N frames.

    Attributes:
        units: (1, U, N).
        f0: (1, N) Hz.
        volume: (1, N).
        speaker: id in the voice, or (N, S) weights of its ids.
        wav: (n,) of the voice, which is refined; None = sing alone.
    """

    units: Tensor
    f0: Tensor
    volume: Tensor
    speaker: int | FloatArray
    wav: Tensor | None = None


@dataclass(frozen=True)
class Refiner:
    """A diffusion model with its vocoder, in evaluation mode on their device.

    Attributes:
        diffusion: makes or refines mels.
        vocoder: mels to audio and back.
        speakers: name -> id in the diffusion model.
        voice_speakers: name -> id in the voice; the same where there is no other voice.
        method: sampler.
        speedup: evaluations are fewer by this factor.
        compat: as so-vits-svc 4.1, useless evaluations included.
    """

    diffusion: Unit2Mel
    vocoder: NsfHifigan
    speakers: Mapping[str, int]
    voice_speakers: Mapping[str, int]
    method: str | None
    speedup: int
    compat: bool = False

    def check_options(
        self, options: InferOptions, singers: Mapping[str, int], *, alone: bool = False
    ) -> None:
        """Raise ConfigError for steps that the model was not trained for and speakers it has not."""
        k_step = None if alone else options.k_step
        self.diffusion.check_infer(self.method, k_step=k_step, speedup=self.speedup)
        for name in singers:
            if name not in self.speakers:
                known = ", ".join(f'"{known}"' for known in self.speakers)
                raise ConfigError(
                    f'the diffusion model does not know the speaker "{name}", only {known}: its '
                    "config.yaml belongs to another data set; train it on this one, or run without -shd"
                )

    def sing(
        self,
        units: Tensor,
        f0: Tensor,
        volume: Tensor,
        speaker: int | FloatArray,
        options: InferOptions,
        *,
        wav: Tensor | None = None,
    ) -> Tensor:
        """Make the wav of a stretch.

        Args:
            units: (1, U, N).
            f0: (1, N) Hz.
            volume: (1, N).
            speaker: id in the voice, or (N, S) weights of its ids.
            options: k_step and seed are used.
            wav: (n,) of the voice, which is refined; None = sing alone.

        Returns:
            (N * hop_length,) samples.
        """
        return self.sing_many([Stretch(units, f0, volume, speaker, wav)], options)[0]

    def sing_many(
        self,
        stretches: Sequence[Stretch],
        options: InferOptions,
        *,
        batch_frames: int | None = None,
    ) -> list[Tensor]:
        """Make the wavs of several stretches, of any lengths.

        The denoiser takes as many of them at a time as `batch_frames` allows, one after the other in
        one row (`Unit2Mel.infer_many`); nothing is padded, so they need no sorting. The vocoder sings
        them one by one. Each stretch draws from a generator of its own, so its wav is that of `sing`
        whatever goes with it, rounding apart (float32: 1e-4 of a mel).

        Args:
            stretches: all with a wav to refine, or all without one.
            options: k_step and seed are used.
            batch_frames: frames that the denoiser takes at a time; a longer stretch goes alone. None
                = what suits the device.

        Returns:
            (N_i * hop_length,) samples of each, in their order.
        """
        if batch_frames is None:
            batch_frames = _CPU_FRAMES if self.vocoder.device.type == "cpu" else _GPU_FRAMES
        sung: list[Tensor] = []
        for part in batches([stretch.f0.shape[1] for stretch in stretches], batch_frames):
            several = stretches[part.start : part.stop]
            chunks = [self._chunk(stretch, options) for stretch in several]
            mels = self.diffusion.infer_many(
                chunks,
                k_step=options.k_step,
                method=self.method,
                speedup=self.speedup,
                compat=self.compat,
            )
            for stretch, chunk, mel in zip(several, chunks, mels):
                wav = self.vocoder(mel[None], stretch.f0, generator=chunk.generator)
                sung.append(wav.reshape(-1))
        return sung

    def _chunk(self, stretch: Stretch, options: InferOptions) -> Chunk:
        """What the diffusion model is told of a stretch."""
        number, mix = None, None
        if isinstance(stretch.speaker, int):
            number = self._id(stretch.speaker)
        else:
            mix = torch.from_numpy(self._columns(stretch.speaker)).to(stretch.units.device)
        return Chunk(
            stretch.units[0].t().float(),
            stretch.f0[0],
            stretch.volume[0].float(),
            number,
            mix,
            None if stretch.wav is None else self.vocoder.mel(stretch.wav[None])[0],
            torch.Generator().manual_seed(options.seed),
        )

    def _id(self, speaker_id: int) -> int:
        """Id in the diffusion model of an id in the voice: the names decide."""
        for name, number in self.voice_speakers.items():
            if number == speaker_id:
                return self.speakers[name]
        raise ConfigError(f"the config of the voice has no speaker with the id {speaker_id}")

    def _columns(self, weights: FloatArray) -> FloatArray:
        """Weights (N, S) in the order of the diffusion model's ids, which it wants all."""
        table = np.zeros((len(weights), max(self.diffusion.n_spk, 1)), dtype=np.float32)
        if self.diffusion.n_spk <= 1:  # it sings in one way, whatever ids its config names
            return table
        for name, number in self.voice_speakers.items():
            if number < weights.shape[1] and name in self.speakers:
                table[:, self.speakers[name]] += weights[:, number]
        return table


def load_refiner(
    choice: DiffusionChoice,
    config: SvcConfig | None,
    *,
    device: torch.device,
    compat: bool = False,
) -> Refiner:
    """Load a diffusion model and its vocoder, and check that they fit the voice.

    Args:
        choice: the files, and the precision of both nets' products.
        config: of the voice; None = diffusion sings alone.
        device: for both.
        compat: see `Refiner`.

    Raises:
        MissingFileError: one is not there.
        ConfigError: rate, hop or encoder differ from the voice's or the vocoder's; or the device
            cannot compute in that precision.
        CheckpointError: a file is damaged or does not fit its config.
    """
    settings = load_diffusion_config(choice.config_path)
    if config is not None:
        check_pair(settings, config, where=str(choice.config_path))
    dtype = inference_dtype(choice.precision or "fp32", device, flag="--diffusion_precision")
    vocoder_path = settings.vocoder.ckpt if choice.vocoder is None else choice.vocoder
    vocoder = load_vocoder(vocoder_path, kind=settings.vocoder.type, device=device)
    diffusion, _ = load_diffusion(choice.model, choice.config_path, device=device)
    check_vocoder(settings, vocoder.config, n_mels=diffusion.n_mels)
    diffusion.settle(dtype)
    vocoder.settle(dtype)
    return Refiner(
        diffusion,
        vocoder,
        speakers=settings.spk,
        voice_speakers=settings.spk if config is None else config.spk,
        method=settings.infer.method if choice.method is None else choice.method,
        speedup=settings.infer.speedup if choice.speedup is None else choice.speedup,
        compat=compat,
    )
