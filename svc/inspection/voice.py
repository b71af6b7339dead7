"""Checkpoints of a voice: the generator G and the discriminator D (spec_core 7.4, 8.8, 13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from svc.checkpoint import classic_weight_norm_keys
from svc.config import SvcConfig, encoders_of_width
from svc.empty_nets import shapes_only
from svc.errors import CheckpointError, ConfigError
from svc.f0.range_files import ranges_in
from svc.inspection.report import Fact, Finding
from svc.inspection.settings import Settings
from svc.inspection.shapes import misfit
from svc.inspection.weights import (
    Weights,
    axis_of,
    count_of,
    has,
    kernels_of,
    size_facts,
    training_facts,
)
from svc.safe_pickle import printable
from svc.synthesizer import Synthesizer
from svc.synthesizer.check import describe_mismatch
from svc.vocoder.discriminator import Discriminator
from svc.vocoder.weight_norm import respell_state

VOICE = "voice"
DISCRIMINATOR = "discriminator"
FOREIGN_VOICE = "voice of another program"
CONFIGS = ("config.json",)

_EXTRA = "svc"  # the key of a checkpoint under which svc keeps what is its own
_FFN = "enc_p.enc_.ffn_layers.0.conv_1.weight"
_FLOW = r"flow\.flows\.0\.enc\."
_DEPTH = r"(enc_q\.enc|flow\.flows\.0\.enc)\.in_layers\.0\."


def recognise(weights: Weights) -> Finding | None:
    """Return what a voice's checkpoint is; None for other weights."""
    if weights.has(r"enc_p\.emb_phone\."):
        return _foreign(weights)
    if weights.has(r"enc_p\.enc_\.") or (weights.has(r"dec\.conv_pre\.") and weights.has("emb_g")):
        return _generator(weights)
    if weights.has(r"discriminators\.\d+\.conv"):
        return _discriminator(weights)
    return None


def _foreign(weights: Weights) -> Finding:
    facts: dict[str, Fact] = {}
    for key in ("version", "sr", "f0"):
        if isinstance(weights.content.get(key), str | int | float):
            facts[key] = weights.content[key]
    facts["units"] = weights.axis("enc_p.emb_phone.weight", 1)
    return Finding(
        FOREIGN_VOICE,
        "voice of RVC (Retrieval-based Voice Conversion)",
        facts | size_facts(weights.tensors),
        notes=("svc cannot sing with it: its nets are others than those of so-vits-svc",),
    )


# ---- the generator --------------------------------------------------------------------------------


def _generator(weights: Weights) -> Finding:
    state = classic_weight_norm_keys(weights.tensors)
    model = model_facts(state)
    trained = "enc_q.pre.weight" in state
    extra = weights.content.get(_EXTRA)
    own, notes = _own_facts(weights, extra if isinstance(extra, Mapping) else {})
    facts: dict[str, Fact] = {
        **model,
        "posterior_encoder": trained,
        "weight_norm": has(state, r"dec\.conv_pre\.weight_v"),
        **size_facts(state),
        **training_facts(weights.content),
        **own,
    }
    if not trained:
        notes.append("released (compressed): it sings, and cannot be trained further")
    if "sampling_rate" not in facts:
        notes.append("sampling rate and hop length are not in it: the config.json has them")
    if weights.bookkeeping:
        notes.append(
            f"svc takes only plain tensors for a voice and refuses {', '.join(weights.bookkeeping)}"
        )
    if weights.stored == "safetensors" and weights.path.suffix != ".safetensors":
        notes.append("svc reads this format only under a name that ends in .safetensors")
    return Finding(
        VOICE,
        f"voice of so-vits-svc {_generation(model)} (generator, G)",
        facts,
        fits=_fits(model),
        notes=tuple(notes),
        damage=None if "emb_g.weight" in state and "pre.weight" in state else _INCOMPLETE,
        compare=lambda settings: _compare_generator(state, settings),
        beside=CONFIGS,
    )


_INCOMPLETE = "it lacks the tensors emb_g.weight or pre.weight of a voice"


def model_facts(state: Mapping[str, Tensor]) -> dict[str, Fact]:
    """Return the keys of a config's section `model` that the tensors tell (spec_core 13).

    Args:
        state: tensors by name, weight norm under its classic names; values are not read.

    Returns:
        Value by key; None where this state cannot tell.
    """
    width = axis_of(state, "enc_p.enc_.attn_layers.0.emb_rel_k", 2)
    hidden = axis_of(state, "pre.weight", 0)
    transformer = has(state, _FLOW + r"cond_pre\.")
    resblocks = kernels_of(state, r"dec\.resblocks\.(\d+)\.convs1?\.0")
    ups = kernels_of(state, r"dec\.ups\.(\d+)")
    spectrum = axis_of(state, "enc_q.pre.weight", 1)
    facts: dict[str, Fact] = {
        "ssl_dim": axis_of(state, "pre.weight", 1),
        "gin_channels": axis_of(state, "emb_g.weight", 1),
        "n_speakers": axis_of(state, "emb_g.weight", 0),
        "inter_channels": _first(state, ("dec.conv_pre.weight_v", "dec.conv_pre.weight"), 1),
        "hidden_channels": hidden,
        "filter_channels": axis_of(state, _FFN, 0),
        "n_heads": hidden // width if hidden and width else None,
        "n_layers": count_of(state, r"enc_p\.enc_\.attn_layers\.(\d+)\."),
        "kernel_size": axis_of(state, _FFN, 2),
        "vocoder_name": "nsf-snake-hifigan" if has(state, r"dec\.snakes\.0\.") else "nsf-hifigan",
        "resblock": "1" if has(state, r"dec\.resblocks\.0\.convs1\.") else "2",
        "resblock_kernel_sizes": resblocks[: len(resblocks) // max(1, len(ups))],
        "upsample_initial_channel": axis_of(state, "dec.cond.weight", 0),
        "upsample_kernel_sizes": ups,
        "use_transformer_flow": transformer,
    }
    if transformer:
        facts["n_flow_layer"] = count_of(state, r"flow\.flows\.(\d+)\.pre\.weight")
        facts["n_layers_trans_flow"] = count_of(state, _FLOW + r"self_attn_layers\.(\d+)\.")
    else:
        facts["n_flow_layer"] = count_of(state, _FLOW + r"res_skip_layers\.(\d+)\.")
    return {
        **facts,
        "flow_share_parameter": has(state, r"flow\.wn\."),
        "use_depthwise_conv": has(state, _DEPTH + "depth_conv") if has(state, _DEPTH) else None,
        "vol_embedding": has(state, r"emb_vol\.weight"),
        "use_automatic_f0_prediction": has(state, r"f0_decoder\.proj\."),
        "filter_length": None if spectrum is None else 2 * (spectrum - 1),
    }


def _first(state: Mapping[str, Tensor], names: tuple[str, ...], axis: int) -> int | None:
    return next((axis_of(state, name, axis) for name in names if name in state), None)


def _generation(model: Mapping[str, Fact]) -> str:
    switches = ("vol_embedding", "use_transformer_flow", "flow_share_parameter")
    plain = not any(model[key] for key in switches) and not model["use_depthwise_conv"]
    old = model["ssl_dim"] == model["gin_channels"] == 256 and plain
    snake = model["vocoder_name"] == "nsf-snake-hifigan"
    return "4.0, or 4.1 with an encoder 256 wide" if old and not snake else "4.1"


def _fits(model: Mapping[str, Fact]) -> tuple[str, ...]:
    width = model["ssl_dim"]
    names = encoders_of_width(width) if isinstance(width, int) else []
    keys = ["ssl_dim", "gin_channels", "filter_channels", "n_speakers", "vocoder_name"]
    keys += [key for key, value in model.items() if value is True]
    wanted = ", ".join(f"{key} {_plain(model[key])}" for key in keys)
    encoder = f"such as {', '.join(names)}" if names else "that svc does not have"
    return (
        f"a config whose section model has {wanted}",
        f"a speech encoder {width} wide, {encoder}",
    )


def _plain(value: Fact) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _own_facts(weights: Weights, extra: Mapping[str, Any]) -> tuple[dict[str, Fact], list[str]]:
    """Return what svc has added to its checkpoints, and notes."""
    facts: dict[str, Fact] = {}
    notes: list[str] = []
    if not extra:
        return facts, notes
    config = extra.get("config")
    data = config.get("data") if isinstance(config, Mapping) else None
    for key in ("sampling_rate", "hop_length"):
        if isinstance(data, Mapping) and isinstance(data.get(key), int):
            facts[key] = data[key]
    for key in ("step", "epoch"):
        if isinstance(extra.get(key), int):
            facts[key] = extra[key]
    if isinstance(extra.get("encoder"), str):
        facts["speech_encoder"] = printable(extra["encoder"])
    speakers = extra.get("speakers")
    if isinstance(speakers, Mapping):
        facts["speakers"] = [printable(str(name)) for name in speakers]
    if isinstance(extra.get("version"), str):
        facts["svc_version"] = printable(extra["version"])
    best = extra.get("best")
    if isinstance(best, Mapping) and isinstance(best.get("score"), float):
        notes.append(f"the best of its run on held-out clips: mel distance {best['score']:.4g}")
    try:
        ranges = ranges_in(weights.content, weights.path.name)
        facts |= {"voice_range": {name: voice.summary() for name, voice in ranges.items()} or None}
    except CheckpointError as error:
        notes.append(str(error))
    return {key: value for key, value in facts.items() if value is not None}, notes


def _compare_generator(state: Mapping[str, Tensor], settings: Settings) -> list[str] | None:
    if not isinstance(settings, SvcConfig):
        return None
    found = [mismatch.cause for mismatch in describe_mismatch(state, settings.model)]
    if found:
        return found
    try:
        with shapes_only():
            net = Synthesizer.from_config(settings)
    except ConfigError as error:
        return [str(error)]
    if "enc_q.pre.weight" not in state:
        net.enc_q = None
    left = misfit(net, respell_state(state, net))
    return [] if left is None else [left]


# ---- the discriminator ----------------------------------------------------------------------------


def _discriminator(weights: Weights) -> Finding:
    state = classic_weight_norm_keys(weights.tensors)
    spectral = has(state, r"discriminators\.\d+\.convs\.0\.weight_orig")
    extra = weights.content.get(_EXTRA)
    step = extra.get("step") if isinstance(extra, Mapping) else None
    facts: dict[str, Fact] = {
        "discriminators": count_of(state, r"discriminators\.(\d+)\."),
        "use_spectral_norm": spectral,
        **size_facts(state),
        **training_facts(weights.content),
        **({"step": step} if isinstance(step, int) else {}),
    }
    return Finding(
        DISCRIMINATOR,
        "discriminator of a voice (D): needed to train it further, not to sing",
        facts,
        fits=("the G_*.pth of the same training run",),
        compare=lambda settings: _compare_discriminator(state, spectral, settings),
        beside=CONFIGS,
    )


def _compare_discriminator(
    state: Mapping[str, Tensor], spectral: bool, settings: Settings
) -> list[str] | None:
    if not isinstance(settings, SvcConfig):
        return None
    model = settings.model
    if spectral != model.use_spectral_norm:
        norm = "spectral" if spectral else "weight"
        return [f"trained with {norm} norm, model.use_spectral_norm is {model.use_spectral_norm}"]
    with shapes_only():
        net = Discriminator(model.use_spectral_norm, model.discriminator_width)
    left = misfit(net, respell_state(state, net))
    return [] if left is None else [left]
