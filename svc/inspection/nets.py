"""Diffusion models and mel vocoders (spec_diffusion 2, spec_vocoder 1 and 2)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from torch import Tensor

from svc.checkpoint import classic_weight_norm_keys
from svc.config import DiffusionConfig, encoders_of_width
from svc.inspection.report import Fact, Finding
from svc.inspection.settings import Settings, VocoderSettings
from svc.inspection.weights import (
    Weights,
    axis_of,
    count_of,
    has,
    kernels_of,
    size_facts,
    tensors_in,
    training_facts,
)

DIFFUSION = "diffusion model"
VOCODER = "vocoder"
_DENOISER = "decoder.denoise_fn."
_TIMESTEPS = 1000  # what null in a diffusion config stands for


def recognise_diffusion(weights: Weights) -> Finding | None:
    """Return what a diffusion model is; None for other weights."""
    state = weights.tensors
    if not weights.has(r"decoder\.denoise_fn\."):
        return None
    facts: dict[str, Fact] = {
        "encoder_out_channels": axis_of(state, "unit_embed.weight", 1),
        "n_layers": count_of(state, r"decoder\.denoise_fn\.residual_layers\.(\d+)\."),
        "n_chans": axis_of(state, f"{_DENOISER}input_projection.weight", 0),
        "n_hidden": axis_of(state, "unit_embed.weight", 0),
        "mel_bins": axis_of(state, f"{_DENOISER}input_projection.weight", 1),
        "timesteps": axis_of(state, "decoder.betas", 0),
        "use_pitch_aug": "aug_shift_embed.weight" in state,
        "n_spk": axis_of(state, "spk_embed.weight", 0) or 1,
    }
    width = facts["encoder_out_channels"]
    names = encoders_of_width(width) if isinstance(width, int) else []
    return Finding(
        DIFFUSION,
        "diffusion model of so-vits-svc 4.1 (Unit2Mel)",
        facts | size_facts(state) | training_facts(weights.content),
        fits=(
            f"a diffusion.yaml with encoder_out_channels {width}, n_layers {facts['n_layers']}, "
            f"n_chans {facts['n_chans']}, n_hidden {facts['n_hidden']}, n_spk {facts['n_spk']}",
            f"a speech encoder {width} wide, {_such_as(names)}",
            f"a vocoder of {facts['mel_bins']} mel bands",
        ),
        notes=("k_step_max, sampling rate and speakers are only in its diffusion.yaml",),
        damage=None if width else "it lacks unit_embed.weight, the way in for units",
        compare=lambda settings: _compare_diffusion(facts, settings),
        beside=("*.yaml", "*.yml"),
    )


def _such_as(names: list[str]) -> str:
    return f"such as {', '.join(names)}" if names else "that svc does not have"


def _compare_diffusion(facts: Mapping[str, Fact], settings: Settings) -> list[str] | None:
    if not isinstance(settings, DiffusionConfig):
        return None
    model = settings.model
    wanted: dict[str, Fact] = {
        "encoder_out_channels": settings.data.encoder_out_channels,
        "n_layers": model.n_layers,
        "n_chans": model.n_chans,
        "n_hidden": model.n_hidden,
        "timesteps": model.timesteps or _TIMESTEPS,
        "use_pitch_aug": model.use_pitch_aug,
        "n_spk": model.n_spk or 1,
    }
    return _differences(facts, wanted)


def _differences(facts: Mapping[str, Fact], wanted: Mapping[str, Fact]) -> list[str]:
    return [
        f"{key} is {facts[key]} in the file and {value} in the config"
        for key, value in wanted.items()
        if facts[key] != value
    ]


def recognise_vocoder(weights: Weights) -> Finding | None:
    """Return what a HiFi-GAN generator is; None for other weights."""
    state = classic_weight_norm_keys(tensors_in(weights.content.get("generator")))
    state = state or classic_weight_norm_keys(weights.tensors)
    if not has(state, r"conv_pre\.") or not has(state, r"ups\.0\.") or has(state, "emb_g"):
        return None
    pre = "conv_pre.weight_v" if "conv_pre.weight_v" in state else "conv_pre.weight"
    kernels = kernels_of(state, r"ups\.(\d+)")
    resblocks = kernels_of(state, r"resblocks\.(\d+)\.convs1?\.0")
    facts: dict[str, Fact] = {
        "num_mels": axis_of(state, pre, 1),
        "upsample_initial_channel": axis_of(state, pre, 0),
        "upsample_kernel_sizes": kernels,
        "upsample_rates_after_first": _rates(state, len(kernels)),
        "resblock": "1" if has(state, r"resblocks\.0\.convs1\.") else "2",
        "resblock_kernel_sizes": resblocks[: len(resblocks) // max(1, len(kernels))],
        "harmonics": axis_of(state, "m_source.l_linear.weight", 1),
        "weight_norm": pre.endswith("_v"),
        "snake": has(state, r"snakes\.0\."),
    }
    harmonic, small = has(state, r"m_source\."), has(state, r"source_conv\.")
    notes = ["sampling rate, hop length and mel settings are only in the config.json beside it"]
    if small:
        notes.append('a mini-NSF vocoder (pc-nsf-hifigan): its config.json says "mini_nsf": true')
    elif facts["snake"]:
        notes.append('Snake activations: its config.json says "snake": true')
    usable = harmonic or small
    if not usable:
        notes.append("without a harmonic source: it takes no F0, svc cannot use it")
    return Finding(
        VOCODER,
        "mel vocoder, NSF-HiFiGAN" if usable else "HiFi-GAN vocoder of another kind",
        facts | size_facts(state),
        fits=(f"a diffusion model of {facts['num_mels']} mel bands",) if usable else (),
        notes=tuple(notes),
        compare=lambda settings: _compare_vocoder(facts, settings),
        beside=("config.json",),
    )


def _rates(state: Mapping[str, Tensor], stages: int) -> list[int] | None:
    """Read the factors of the stages after the first from the source's convolutions, whose kernel
    is twice the product of the factors that follow (spec_vocoder 3.2); the first is not told.
    """
    kernels = [axis_of(state, f"noise_convs.{i}.weight", 2) or 0 for i in range(stages)]
    products = [kernel // 2 for kernel in kernels[:-1]] + [1]
    if not stages or not all(products) or any(a % b for a, b in itertools.pairwise(products)):
        return None
    return [a // b for a, b in itertools.pairwise(products)]


def _compare_vocoder(facts: Mapping[str, Fact], settings: Settings) -> list[str] | None:
    if not isinstance(settings, VocoderSettings):
        return None
    raw = settings.raw
    later = facts["upsample_rates_after_first"]
    wanted: dict[str, Fact] = {
        key: raw.get(key)
        for key in (
            "num_mels",
            "upsample_initial_channel",
            "upsample_kernel_sizes",
            "resblock_kernel_sizes",
        )
    }
    wanted["resblock"] = "1" if raw.get("resblock") == "1" else "2"
    wanted["snake"] = bool(raw.get("snake"))
    found = _differences(facts, wanted)
    given = raw.get("upsample_rates")
    rates = given if isinstance(given, list) else []
    if later is not None and rates[1:] != later:
        found.append(
            f"upsample_rates after the first are {later} in the file and {rates[1:]} in the config"
        )
    hop = raw.get("hop_size")
    if all(isinstance(rate, int) for rate in rates) and math.prod(rates) != hop:
        found.append(f"upsample_rates of the config make {math.prod(rates)}, its hop_size is {hop}")
    return found
