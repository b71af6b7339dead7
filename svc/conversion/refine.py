"""Diffusion in a conversion: going over what a voice has sung, or singing alone (spec_diffusion 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svc.config import SvcConfig, check_vocoder, load_diffusion_config
from svc.config.pairs import check_pair
from svc.conversion.chunks import FloatArray
from svc.conversion.options import DiffusionChoice, InferOptions
from svc.diffusion.loading import load_diffusion
from svc.diffusion.unit2mel import Unit2Mel
from svc.errors import ConfigError
from svc.vocoder.nsf_hifigan import NsfHifigan, load_vocoder


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
        generator = torch.Generator().manual_seed(options.seed)
        ids, mix = None, None
        if isinstance(speaker, int):
            ids = torch.tensor([self._id(speaker)], device=units.device)
        else:
            mix = torch.from_numpy(self._columns(speaker)).to(units.device)
        made = self.diffusion.infer(
            units.transpose(1, 2).float(),
            f0,
            volume.float(),
            ids,
            speaker_mix=mix,
            mel=None if wav is None else self.vocoder.mel(wav[None]),
            k_step=options.k_step,
            method=self.method,
            speedup=self.speedup,
            generator=generator,
            compat=self.compat,
        )
        sung: Tensor = self.vocoder(made, f0, generator=generator)
        return sung.reshape(-1)

    def _id(self, speaker_id: int) -> int:
        """Id in the diffusion model of an id in the voice: the names decide."""
        for name, number in self.voice_speakers.items():
            if number == speaker_id:
                return self.speakers[name]
        raise ConfigError(f"the config of the voice has no speaker with the id {speaker_id}")

    def _columns(self, weights: FloatArray) -> FloatArray:
        """Weights (N, S) in the order of the diffusion model's ids, which it wants all."""
        table = np.zeros((len(weights), max(self.diffusion.n_spk, 1)), dtype=np.float32)
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
        choice: the files.
        config: of the voice; None = diffusion sings alone.
        device: for both.
        compat: see `Refiner`.

    Raises:
        MissingFileError: one is not there.
        ConfigError: rate, hop or encoder differ from the voice's or the vocoder's.
        CheckpointError: a file is damaged or does not fit its config.
    """
    settings = load_diffusion_config(choice.config_path)
    if config is not None:
        check_pair(settings, config, where=str(choice.config_path))
    vocoder_path = Path(settings.vocoder.ckpt) if choice.vocoder is None else choice.vocoder
    vocoder = load_vocoder(vocoder_path, kind=settings.vocoder.type, device=device)
    diffusion, _ = load_diffusion(choice.model, choice.config_path, device=device)
    check_vocoder(settings, vocoder.config, n_mels=diffusion.n_mels)
    return Refiner(
        diffusion,
        vocoder,
        speakers=settings.spk,
        voice_speakers=settings.spk if config is None else config.spk,
        method=settings.infer.method if choice.method is None else choice.method,
        speedup=settings.infer.speedup if choice.speedup is None else choice.speedup,
        compat=compat,
    )
