"""Loading a diffusion voice for inference (spec_diffusion 2).

Does the file belong to the config? Its tensors tell what it was trained with, and a mismatch is
explained by its cause, not by a list of 191 tensors.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc.checkpoint import load_checkpoint, load_state, strip_prefix
from svc.config import DiffusionConfig, encoders_of_width, load_diffusion_config
from svc.diffusion.samplers import sampler_name
from svc.diffusion.schedule import schedule_arrays
from svc.diffusion.unit2mel import Unit2Mel
from svc.empty_nets import shapes_only
from svc.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
_NEXT_STEP = "Next: use the config.yaml saved beside the checkpoint, or correct the key named here"
_DENOISER = "decoder.denoise_fn."
# config key, tensor, axis, what there are so many of
_WIDTHS = (
    ("data.encoder_out_channels", "unit_embed.weight", 1, "unit channels"),
    ("model.n_spk", "spk_embed.weight", 0, "speakers"),
    ("model.n_hidden", "unit_embed.weight", 0, "hidden channels"),
    ("model.n_chans", f"{_DENOISER}input_projection.weight", 0, "channels"),
    ("model.timesteps", "decoder.betas", 0, "steps of noise"),
)


def load_diffusion(
    model_path: str | Path,
    config_path: str | Path | None = None,
    *,
    device: torch.device | str = "cpu",
) -> tuple[Unit2Mel, DiffusionConfig]:
    """Load a diffusion voice.

    Args:
        model_path: `model_*.pt`, or `.safetensors`; half precision is converted.
        config_path: its config; None = `config.yaml` beside it.
        device: where the net shall live.

    Returns:
        The net in eval mode, float32, its `global_step` set, and the config. The number of mel
        bands comes from the file; compare it with the vocoder's by `svc.config.check_vocoder`.

    Raises:
        MissingFileError: no such checkpoint or config.
        ConfigError: the config is wrong in itself.
        CheckpointError: damaged, refused, or trained with another config.
    """
    path = Path(model_path)
    checkpoint = load_checkpoint(path)
    where = path.with_name(CONFIG_NAME) if config_path is None else Path(config_path)
    config = load_diffusion_config(where)
    check_diffusion_config(config, str(where))
    what = str(path)
    state = diffusion_tensors(checkpoint, what)
    causes = [*mismatches(state, config)]
    if causes:
        raise CheckpointError(f"{what} does not fit {where}: {'; '.join(causes)}. {_NEXT_STEP}")
    n_mels = len(state[f"{_DENOISER}output_projection.weight"])
    with shapes_only():  # every value comes from the file: skip the random initialisation
        model = Unit2Mel.from_config(config, n_mels=n_mels)
    model.to_empty(device="cpu")
    load_state(model, full_schedule(state, config.model.n_steps), what=what, hint=_NEXT_STEP)
    step = checkpoint.get("global_step")
    model.global_step = step if isinstance(step, int) else 0
    return model.eval().requires_grad_(False).to(device), config


def check_diffusion_config(config: DiffusionConfig, where: str) -> None:
    """Refuse a config that contradicts itself: ids of speakers, sampler. Raises ConfigError."""
    n_speakers = config.model.n_speakers
    for name, number in config.spk.items():
        if n_speakers > 1 and number >= n_speakers:
            raise ConfigError(
                f'{where}: "spk.{name}" is {number}, and with model.n_spk {n_speakers} the ids are '
                f"0 to {n_speakers - 1}; correct either"
            )
    infer = config.infer
    try:
        used = sampler_name(infer.method, infer.speedup)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if infer.method is not None and used != infer.method:
        logger.warning(
            "%s: infer.speedup 1 means every step of ddpm, infer.method %s is not used; set "
            "infer.speedup to 2 or more for it",
            where,
            infer.method,
        )


def diffusion_tensors(checkpoint: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """Return the tensors of a diffusion voice's file.

    Args:
        checkpoint: content of the file.
        what: the file, for the message.

    Raises:
        CheckpointError: it is another kind of file.
    """
    state = checkpoint.get("model", checkpoint)
    if not isinstance(state, Mapping):
        state = {}
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    tensors = strip_prefix(tensors)
    needed = (f"{_DENOISER}output_projection.weight", "unit_embed.weight")
    if any(name not in tensors or tensors[name].dim() < 2 for name in needed):
        kind = "a synthesizer's weights" if "emb_g.weight" in tensors else "no weights of one"
        raise CheckpointError(
            f"{what} is no diffusion voice, it holds {kind}; give a model_*.pt made by "
            "svc train-diff"
        )
    return tensors


def mismatches(
    state: Mapping[str, Tensor], config: DiffusionConfig, *, ignore: Collection[str] = ()
) -> Iterator[str]:
    """Say each fact in which a file and a config differ, the likeliest cause first.

    Args:
        state: tensors of the file.
        config: the config.
        ignore: keys of the config that may differ, such as "model.n_spk".

    Yields:
        One clause for each.
    """
    model = config.model
    wanted = {
        "data.encoder_out_channels": config.data.encoder_out_channels,
        "model.n_spk": model.n_speakers,
        "model.n_hidden": model.n_hidden,
        "model.n_chans": model.n_chans,
        "model.timesteps": model.n_steps,
    }
    for key, tensor, axis, what in _WIDTHS:
        if key == "model.n_spk" and tensor not in state:
            found = 1
        elif tensor in state and state[tensor].dim() > axis:
            found = state[tensor].shape[axis]
        else:
            continue  # a strict load names it
        if found == wanted[key] or key in ignore:
            continue
        if key == "data.encoder_out_channels":
            names = encoders_of_width(found)
            usual = f" such as {' or '.join(names)}" if names else ""
            yield (
                f"trained with a speech encoder {found} wide{usual}, the config says "
                f"{config.data.encoder} ({key} {wanted[key]})"
            )
        else:
            yield f"trained with {found} {what}, {key} is {wanted[key]}"
    n_layers = len({m[1] for m in map(re.compile(r".*residual_layers\.(\d+)\.").match, state) if m})
    if n_layers != model.n_layers:
        yield f"trained with {n_layers} layers, model.n_layers is {model.n_layers}"
    has_shift = "aug_shift_embed.weight" in state
    if has_shift != model.use_pitch_aug:
        said = "with" if has_shift else "without"
        yield f"trained {said} pitch augmentation, model.use_pitch_aug is {model.use_pitch_aug}"


def full_schedule(state: Mapping[str, Tensor], timesteps: int) -> dict[str, Tensor]:
    """Compute the schedule anew where a half-precision file has lost its small numbers."""
    arrays = schedule_arrays(timesteps)
    lost = {
        f"decoder.{name}": torch.from_numpy(values)
        for name, values in arrays.items()
        if state.get(f"decoder.{name}", torch.empty(0)).dtype in (torch.float16, torch.bfloat16)
    }
    return {**state, **lost}
