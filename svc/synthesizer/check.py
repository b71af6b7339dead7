"""Does a weight file belong to a config? The tensors tell what the file was trained with (spec_core
13).

A mismatch is explained by its cause, not by a list of 700 tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from svc.config import ModelConfig, SvcConfig, encoders_of_width
from svc.errors import CheckpointError

NEXT_STEP = "use the config.json saved beside the checkpoint, or correct the key named here"


class Mismatch(NamedTuple):
    """One fact in which a file and a config differ."""

    key: str
    """Config key, without its section ``model``."""
    in_file: int | str | bool
    in_config: int | str | bool
    tensor: str
    """Tensor that shows it."""
    shapes: str
    """Its shape in the file and by the config, or its absence."""
    cause: str

    def __str__(self) -> str:
        return f"{self.tensor} {self.shapes}: {self.cause}"


def _shape(values: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, values))}]"


class _Widths(NamedTuple):
    """A width read from one axis of one tensor."""

    key: str
    tensor: str
    axis: int
    what: str


_WIDTHS = (
    _Widths("n_speakers", "emb_g.weight", 0, "speakers"),
    _Widths("gin_channels", "emb_g.weight", 1, "speaker embedding channels"),
    _Widths("hidden_channels", "pre.weight", 0, "hidden channels"),
    _Widths("ssl_dim", "pre.weight", 1, "unit channels"),
    _Widths("filter_channels", "enc_p.enc_.ffn_layers.0.conv_1.weight", 0, "filter channels"),
    _Widths("kernel_size", "enc_p.enc_.ffn_layers.0.conv_1.weight", 2, "taps"),
    _Widths("inter_channels", "dec.conv_pre.weight_v", 1, "latent channels"),
    _Widths("inter_channels", "dec.conv_pre.weight", 1, "latent channels"),
    _Widths("upsample_initial_channel", "dec.cond.weight", 0, "decoder channels"),
)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the different numbers that `pattern` (one group) matches at the start of names."""
    compiled = re.compile(pattern)
    return len({m.group(1) for name in state if (m := compiled.match(name))})


def _has(state: Mapping[str, Tensor], pattern: str) -> bool:
    compiled = re.compile(pattern)
    return any(compiled.match(name) for name in state)


def _width_mismatches(state: Mapping[str, Tensor], model: ModelConfig) -> Iterator[Mismatch]:
    for key, tensor, axis, what in _WIDTHS:
        if tensor not in state or state[tensor].dim() <= axis:
            continue
        shape = tuple(state[tensor].shape)
        wanted = getattr(model, key)
        if shape[axis] == wanted:
            continue
        by_config = (*shape[:axis], wanted, *shape[axis + 1 :])
        cause = f"the file has {shape[axis]} {what}, model.{key} is {wanted}"
        if key == "ssl_dim":
            cause = _encoder_cause(shape[axis], model)
        elif key == "n_speakers":
            cause = f"trained with {shape[axis]} speakers, the config says {wanted}"
        yield Mismatch(
            key,
            shape[axis],
            wanted,
            tensor,
            f"is {_shape(shape)} in the file and {_shape(by_config)} by the config",
            cause,
        )


def _encoder_cause(width: int, model: ModelConfig) -> str:
    names = encoders_of_width(width)
    usual = f" such as {' or '.join(names)}" if names else ""
    return (
        f"trained with a speech encoder {width} wide{usual}, the config says "
        f"{model.speech_encoder} (model.ssl_dim {model.ssl_dim})"
    )


def _switch_mismatches(state: Mapping[str, Tensor], model: ModelConfig) -> Iterator[Mismatch]:
    """Compare the parts that a switch of the config adds or removes."""
    switches: tuple[tuple[str, bool, str, str], ...] = (
        ("vol_embedding", model.vol_embedding, r"emb_vol\.weight", "a volume embedding"),
        (
            "use_automatic_f0_prediction",
            model.use_automatic_f0_prediction,
            r"f0_decoder\.proj\.weight",
            "automatic F0 prediction",
        ),
        (
            "use_transformer_flow",
            model.use_transformer_flow,
            r"flow\.flows\.0\.enc\.cond_pre\.weight",
            "a transformer flow",
        ),
        ("flow_share_parameter", model.flow_share_parameter, r"flow\.wn\.", "a shared flow net"),
        (
            "use_depthwise_conv",
            model.use_depthwise_conv,
            r"(enc_q\.enc|flow\.flows\.0\.enc)\.in_layers\.0\.depth_conv\.",
            "depthwise convolutions",
        ),
        (
            "vocoder_name",
            model.vocoder_name == "nsf-snake-hifigan",
            r"dec\.snakes\.0\.act\.alpha",
            "the snake decoder",
        ),
        (
            "resblock",
            model.resblock == "1",
            r"dec\.resblocks\.0\.convs1\.",
            "type-1 residual blocks",
        ),
    )
    for key, wanted, pattern, what in switches:
        # Depthwise convolutions show in no tensor of a compressed file whose flow is a transformer.
        if key == "use_depthwise_conv" and not _has(
            state, r"(enc_q\.enc|flow\.flows\.0\.enc)\.in_layers\.0\."
        ):
            continue
        found = _has(state, pattern)
        if found == wanted:
            continue
        tensor = pattern.replace("\\", "").replace("(enc_q.enc|flow.flows.0.enc)", "enc_q.enc")
        there, says = ("is", "without") if found else ("is not", "with")
        yield Mismatch(
            key,
            found,
            wanted,
            tensor.rstrip("."),
            f"{there} in the file",
            f"trained {'with' if found else 'without'} {what}, the config says {says} "
            f"(model.{key} is {getattr(model, key)!r})",
        )


def _depth_mismatches(state: Mapping[str, Tensor], model: ModelConfig) -> Iterator[Mismatch]:
    """Compare numbers of layers and the decoder's kernels."""
    counts = [("n_layers", r"enc_p\.enc_\.attn_layers\.(\d+)\.", model.n_layers)]
    if _has(state, r"flow\.flows\.0\.enc\.cond_pre\."):
        counts += [
            ("n_flow_layer", r"flow\.flows\.(\d+)\.pre\.weight", model.n_flow_layer),
            (
                "n_layers_trans_flow",
                r"flow\.flows\.0\.enc\.self_attn_layers\.(\d+)\.",
                model.n_layers_trans_flow,
            ),
        ]
    else:
        pattern = r"flow\.flows\.0\.enc\.res_skip_layers\.(\d+)\."
        counts.append(("n_flow_layer", pattern, model.n_flow_layer))
    counts.append(("upsample_rates", r"dec\.ups\.(\d+)\.", len(model.upsample_rates)))
    for key, pattern, wanted in counts:
        found = _count(state, pattern)
        if found != wanted:
            yield Mismatch(
                key,
                found,
                wanted,
                pattern.replace("\\", "").replace("(d+)", "*").rstrip("."),
                f"comes {found} times in the file and {wanted} times by the config",
                f"model.{key} differs",
            )
    kernels = [
        int(state[name].shape[-1])
        for i in range(len(model.upsample_kernel_sizes))
        for name in (f"dec.ups.{i}.weight_v", f"dec.ups.{i}.weight")
        if name in state
    ]
    wanted_kernels = list(model.upsample_kernel_sizes)
    if len(kernels) == len(wanted_kernels) and kernels != wanted_kernels:
        yield Mismatch(
            "upsample_kernel_sizes",
            str(kernels),
            str(wanted_kernels),
            "dec.ups.*.weight_v",
            f"has kernels {kernels} in the file and {wanted_kernels} by the config",
            "model.upsample_kernel_sizes differs",
        )


def describe_mismatch(state: Mapping[str, Tensor], model: ModelConfig) -> list[Mismatch]:
    """Compare what the tensors of a synthesizer tell about its config with the config.

    Args:
        state: tensors by name.
        model: section `model` of the config.

    Returns:
        One entry per differing fact, the likely main cause first; empty when all facts agree.
    """
    found = [
        *_width_mismatches(state, model),
        *_switch_mismatches(state, model),
        *_depth_mismatches(state, model),
    ]
    # A width that follows from the encoder's explains less than the encoder itself.
    order = {"ssl_dim": 0, "n_speakers": 1}
    return sorted(found, key=lambda mismatch: order.get(mismatch.key, 2))


def check_state(state: Mapping[str, Tensor], config: SvcConfig, *, what: str = "the file") -> None:
    """Refuse a state that was trained with another config.

    Args:
        state: tensors by name.
        config: the config it shall be used with.
        what: the file, for the message.

    Raises:
        CheckpointError: names the tensors, both shapes and the likely causes in one line.
    """
    if not any(name.startswith(("enc_p.", "dec.")) for name in state):
        kind = "a discriminator (D_*.pth)" if _has(state, r"discriminators\.") else "another net"
        raise CheckpointError(f"{what} holds {kind}, not a synthesizer; give a G_*.pth file")
    mismatches = describe_mismatch(state, config.model)
    if mismatches:
        where = f"config {config.path}" if config.path else "the config"
        raise CheckpointError(
            f"{what} does not fit {where}: {'; '.join(map(str, mismatches))}. Next: {NEXT_STEP}"
        )
