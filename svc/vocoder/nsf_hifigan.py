"""The mel vocoder of diffusion voices and of the enhancer: weights and `config.json` in one folder
(spec_vocoder 1-5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svc.audio.mel import LogMel, vocoder_mel
from svc.checkpoint import load_state
from svc.config import VOCODER_TYPES, VocoderConfig
from svc.empty_nets import shapes_only
from svc.errors import ConfigError
from svc.vocoder.files import CONFIG_NAME, find_vocoder, find_vocoder_config, read_vocoder
from svc.vocoder.generator import Generator
from svc.vocoder.mini_nsf import MiniNsfGenerator
from svc.vocoder.settle import settle_generator
from svc.vocoder.source import SourceNoise
from svc.vocoder.weight_norm import respell_state

__all__ = [
    "CONFIG_NAME",
    "NsfHifigan",
    "find_vocoder",
    "find_vocoder_config",
    "load_vocoder",
    "log_mel_of",
    "read_vocoder",
]

_LOG10_OF_E = 0.434294  # as the original has it


class NsfHifigan(nn.Module):
    """Waveform -> mel, and mel with F0 -> waveform.

    Args:
        config: of the vocoder.
        kind: one of `VOCODER_TYPES`; mels are natural-log on this side with each.

    Raises:
        ConfigError: unknown kind, or impossible sizes.
    """

    def __init__(self, config: VocoderConfig, *, kind: str = "nsf-hifigan") -> None:
        super().__init__()
        if kind not in VOCODER_TYPES:
            raise ConfigError(f'vocoder.type "{kind}" is unknown; use {" or ".join(VOCODER_TYPES)}')
        self.config = config
        self.mel_scale = _LOG10_OF_E if kind == "nsf-hifigan-log10" else 1.0
        self.log_mel = log_mel_of(config)
        self.generator = _generator_of(config)

    def settle(self, dtype: torch.dtype = torch.float32) -> None:
        """Lay the generator out for singing, in place; see `settle_generator`. Mels stay float32."""
        settle_generator(self.generator, dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def sampling_rate(self) -> int:
        """Hz."""
        return self.config.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_size

    @property
    def n_mels(self) -> int:
        """Mel bands."""
        return self.config.num_mels

    def mel(self, wav: Tensor, *, key_shift: float = 0.0, speed: float = 1.0) -> Tensor:
        """Natural-log mel.

        Args:
            wav: (B, T) samples in [-1, 1] at the vocoder's rate.
            key_shift: semitones by which the content appears shifted up.
            speed: factor on the hop.

        Returns:
            (B, M, N), N = max(1, T // hop_length) at speed 1.
        """
        return self.log_mel(wav, key_shift=key_shift, speed=speed)

    def forward(
        self,
        mel: Tensor,
        f0: Tensor,
        *,
        generator: torch.Generator | None = None,
        random: SourceNoise | None = None,
    ) -> Tensor:
        """Sing a mel.

        Args:
            mel: (B, M, N) natural log.
            f0: (B, N) Hz, unvoiced where <= 0; surplus frames are not used.
            generator: CPU generator of the source's random part; None = the global ones.
            random: the random part itself; nothing is drawn then.

        Returns:
            wav (B, N · hop_length) in (-1, 1).
        """
        n_frames = mel.shape[2]
        if f0.shape[1] < n_frames:
            raise ValueError(f"{n_frames} frames of mel and only {f0.shape[1]} of F0")
        if self.mel_scale != 1.0:
            mel = mel * self.mel_scale
        wav: Tensor = self.generator(mel, f0[:, :n_frames], generator=generator, random=random)
        return wav[:, 0]


def log_mel_of(config: VocoderConfig) -> LogMel:
    """Return how a vocoder measures mels; needs no weights."""
    return vocoder_mel(
        config.sampling_rate,
        config.n_fft,
        config.hop_size,
        config.win_size,
        config.num_mels,
        config.fmin,
        config.fmax,
    )


def _generator_of(config: VocoderConfig) -> Generator:
    sizes: dict[str, Any] = {
        "sampling_rate": config.sampling_rate,
        "initial_channels": config.upsample_initial_channel,
        "upsample_rates": config.upsample_rates,
        "upsample_kernel_sizes": config.upsample_kernel_sizes,
        "resblock": config.resblock,
        "resblock_kernel_sizes": config.resblock_kernel_sizes,
        "resblock_dilation_sizes": config.resblock_dilation_sizes,
    }
    if config.mini_nsf:
        return MiniNsfGenerator(config.num_mels, **sizes)
    return Generator(config.num_mels, phase_start="frame", snake=config.snake, **sizes)


def load_vocoder(
    path: str | Path, *, kind: str = "nsf-hifigan", device: torch.device | str = "cpu"
) -> NsfHifigan:
    """Load a mel vocoder for inference.

    Args:
        path: its weights (`model`), or their folder; `config.json` lies beside them.
        kind: `vocoder.type` of the diffusion config.
        device: where the net shall live.

    Returns:
        The vocoder in eval mode: float32, weight norm folded.

    Raises:
        MissingFileError: a file is not there; says where it comes from and where it goes.
        ConfigError: the config is damaged or impossible, or the kind unknown.
        CheckpointError: the weights are damaged, refused, or another config's.
    """
    weights, config_path = find_vocoder(path)
    config, state = read_vocoder(weights, config_path)
    what = str(weights)
    try:
        with shapes_only():  # every value comes from the file: skip the initialisation
            vocoder = NsfHifigan(config, kind=kind)
    except ConfigError as error:
        raise ConfigError(f"{config_path}: {error}") from None
    vocoder.to_empty(device="cpu")
    load_state(
        vocoder.generator,
        respell_state(state, vocoder.generator),
        what=what,
        hint=f"Next: take weights and {CONFIG_NAME} from the same archive",
    )
    vocoder.generator.fold()
    return vocoder.eval().requires_grad_(False).to(device)
