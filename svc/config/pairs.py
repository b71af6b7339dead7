"""Whether the configs of a voice and of a diffusion model belong together."""

from __future__ import annotations

from svc.config.diffusion import DiffusionConfig
from svc.config.synthesizer import SvcConfig
from svc.errors import ConfigError


def check_pair(settings: DiffusionConfig, config: SvcConfig, *, where: str) -> None:
    """Refuse a diffusion model that was not trained on the frames and units of a voice.

    Args:
        settings: of the diffusion model.
        config: of the voice.
        where: the diffusion config, for the message.

    Raises:
        ConfigError: rate, hop or encoder differ; names the key and both values.
    """
    facts: dict[str, tuple[object, object]] = {
        "data.sampling_rate": (settings.data.sampling_rate, config.data.sampling_rate),
        "data.block_size": (settings.data.block_size, config.data.hop_length),
        "data.encoder": (settings.data.encoder, config.model.speech_encoder),
        "data.encoder_out_channels": (settings.data.encoder_out_channels, config.model.ssl_dim),
    }
    for key, (theirs, ours) in facts.items():
        if theirs != ours:
            raise ConfigError(
                f'{where}: "{key}" is {theirs}, the voice has {ours}: diffusion model and voice must '
                "come from the same preprocessing; choose the pair that belongs together"
            )
