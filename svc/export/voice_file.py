"""A voice's weight file taken apart for `svc mix` and `svc compress`, and written again.

Written files have the layout of so-vits-svc 4.1 (spec_core 7.4, 8.8), which reads them; what is ours
is under the key ``svc``, in `.safetensors` as JSON in the metadata of that name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc import __version__
from svc.checkpoint import (
    classic_weight_norm_keys,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_safetensors,
)
from svc.config import SvcConfig, load_config, parse_config
from svc.empty_nets import shapes_only
from svc.errors import CheckpointError, ConfigError, OutputError
from svc.synthesizer import Synthesizer, check_state
from svc.synthesizer.loading import state_from_checkpoint
from svc.vocoder.weight_norm import respell_state

EXTRA = "svc"
"""Key of a checkpoint under which everything of ours is; the original ignores it."""
POSTERIOR = "enc_q."
"""Prefix of the posterior encoder, which only training needs."""
SAFETENSORS = ".safetensors"

_ONLY_FOR_RESUMING = frozenset(
    {
        "step", "epoch", "batch", "order", "scheduler", "rng", "scaler", "config_hash",
        "best", "ema", "ema_updates", "trouble",
    }
)  # fmt: skip
_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class VoiceFile:
    """What `svc mix` and `svc compress` need of a weight file.

    Attributes:
        path: the file.
        sha256: of the whole file.
        state: tensors by name, weight norm spelt ``weight_g/weight_v``; aliases share their memory,
            which may be mapped from the file.
        iteration: the epoch, 0 where the file does not say.
        extra: the entry ``svc``, {} in files of other programs.
    """

    path: Path
    sha256: str
    state: dict[str, Tensor]
    iteration: int
    extra: Mapping[str, Any]

    @property
    def has_posterior(self) -> bool:
        """Whether the posterior encoder is in it."""
        return any(name.startswith(POSTERIOR) for name in self.state)

    @property
    def is_half(self) -> bool:
        """Whether all numbers are float16."""
        return is_half(self.state)

    def origin(self) -> dict[str, Any]:
        """Name, digest and step, plain values for the ``svc`` entry of what is made of it."""
        step = self.extra.get("step")
        known = {"step": step} if isinstance(step, int) else {}
        return {"name": self.path.name, "sha256": self.sha256, **known}

    def lasting(self) -> dict[str, Any]:
        """The entry ``svc`` without what only resuming a training run needs."""
        kept = {key: value for key, value in self.extra.items() if key not in _ONLY_FOR_RESUMING}
        return {**kept, "version": __version__}


def is_half(state: Mapping[str, Tensor]) -> bool:
    """Return whether all floating-point tensors are float16."""
    return all(x.dtype == torch.float16 for x in state.values() if x.is_floating_point())


# ---- reading -------------------------------------------------------------------------------------


def read_voice(path: str | Path) -> VoiceFile:
    """Read a weight file of a synthesizer; the tensors of a `.pth` are mapped, not read.

    Raises:
        MissingFileError: no such file.
        CheckpointError: it cannot be read, or holds no tensors by name.
    """
    file = Path(path)
    content = load_checkpoint(file, mmap=True)
    state = classic_weight_norm_keys(state_from_checkpoint(content, what=str(file)))
    if file.suffix == SAFETENSORS:
        content = _described(content["metadata"], file)
    extra, iteration = content.get(EXTRA), content.get("iteration")
    return VoiceFile(
        path=file,
        sha256=file_sha256(file),
        state=state,
        iteration=iteration if isinstance(iteration, int) else 0,
        extra=extra if isinstance(extra, Mapping) else {},
    )


def _described(metadata: Mapping[str, str], file: Path) -> dict[str, Any]:
    """What `write_voice` put into the metadata of a `.safetensors` file."""
    if EXTRA not in metadata:
        return {}
    try:
        content = json.loads(metadata[EXTRA])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f'{file}: the metadata "{EXTRA}" is damaged ({error}); copy or download it again'
        ) from error
    return content if isinstance(content, dict) else {}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def config_beside(path: Path) -> SvcConfig | None:
    """Read the ``config.json`` in the folder of a file; None where there is none. Raises ConfigError."""
    file = path.with_name("config.json")
    return load_config(file) if file.is_file() else None


def config_inside(voice: VoiceFile) -> SvcConfig | None:
    """Read the config that `svc train` put into the file; None in others. Raises ConfigError."""
    raw = voice.extra.get("config")
    return None if raw is None else parse_config(raw, where=f"the config inside {voice.path}")


# ---- checking ------------------------------------------------------------------------------------


def net_rate_said(config: SvcConfig) -> SvcConfig:
    """Return the config with the rate of the harmonic source written out.

    It is the same net, built without a word: whoever sings with the voice is told of an unusual rate.
    """
    rate = config.model.sampling_rate or config.data.sampling_rate
    return dataclasses.replace(config, model=dataclasses.replace(config.model, sampling_rate=rate))


def check_voice(voice: VoiceFile, config: SvcConfig) -> None:
    """Refuse a file that is not, to the last tensor, the synthesizer of a config, or not finite.

    Args:
        voice: the file; it may lack the posterior encoder, as a whole.
        config: its config.

    Raises:
        CheckpointError: names the tensors and the likely cause.
    """
    what = str(voice.path)
    check_state(voice.state, config, what=what)
    net = _empty_net(config)
    if not voice.has_posterior:
        net.enc_q = None
    load_state(
        net.to_empty(device="cpu"),
        respell_state(voice.state, net),
        what=what,
        hint="Next: use the config.json the voice was trained with",
    )
    check_numbers(voice.state, what, "take an earlier checkpoint, or copy the file again")


def check_numbers(state: Mapping[str, Tensor], what: str, advice: str) -> None:
    """Refuse NaN, infinity, and weights whose direction is lost (g · v / ‖v‖ with ‖v‖ = 0 is NaN).

    Args:
        state: tensors by name.
        what: whose tensors, for the message.
        advice: what to do.

    Raises:
        CheckpointError: names the tensor.
    """
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{what}: the tensor {name} holds NaN or infinity; {advice}")
        if name.endswith("weight_v") and not bool(tensor.flatten(1).any(1).all()):
            raise CheckpointError(
                f"{what}: the tensor {name} is 0 in a whole channel, which the net divides by; {advice}"
            )


def _empty_net(config: SvcConfig) -> Synthesizer:
    with shapes_only():
        return Synthesizer.from_config(net_rate_said(config))


def check_suffix(output: Path, safetensors: bool) -> None:
    """Refuse the flag ``--safetensors`` beside a name that says otherwise. Raises ConfigError."""
    if safetensors and output.suffix != SAFETENSORS:
        raise ConfigError(
            f"--safetensors and -o {output} contradict each other; end the name in {SAFETENSORS} or "
            "leave the flag out"
        )


def check_target(output: Path, inputs: list[Path], *, force: bool) -> None:
    """Refuse an output that is an input, or, without `force`, a file that is there.

    Raises:
        ConfigError: it is an input.
        OutputError: it is there.
    """
    if any(output.exists() and output.samefile(path) for path in inputs if path.exists()):
        raise ConfigError(f"{output} is to be read and written; choose another name with -o")
    if output.is_dir():
        raise OutputError(f"cannot write {output}: a folder of that name is in the way")
    if output.exists() and not force:
        raise OutputError(f"{output} is there; choose another name with -o, or add --force")


# ---- writing -------------------------------------------------------------------------------------


def map_shared(
    state: Mapping[str, Tensor], change: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Change tensors one by one; names that shared a tensor share the changed one (spec_core 2.5).

    Args:
        state: tensors by name.
        change: (first name, tensor) -> a tensor with memory of its own.
    """
    done: dict[tuple[Any, ...], Tensor] = {}
    result = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if place not in done:
            done[place] = change(name, tensor)
        result[name] = done[place]
    return result


def fresh_optimizer(config: SvcConfig, learning_rate: float) -> dict[str, Any]:
    """Return the state of an AdamW that has done no step, over all parameters of the net.

    The original cannot resume from a file whose optimizer lists another number of parameters, or, at
    epochs above 1, one without ``initial_lr`` (spec_core 7.5).
    """
    train = config.train
    optimizer = torch.optim.AdamW(
        _empty_net(config).parameters(),
        lr=learning_rate,
        betas=(train.betas[0], train.betas[1]),
        eps=train.eps,
        weight_decay=0.01,
    )
    plain = optimizer.state_dict()
    groups = [{**group, "initial_lr": learning_rate} for group in plain["param_groups"]]
    return {"state": {}, "param_groups": groups}


def write_voice(
    state: Mapping[str, Tensor],
    path: Path,
    *,
    config: SvcConfig,
    iteration: int,
    learning_rate: float,
    extra: Mapping[str, Any],
) -> None:
    """Write a voice, `.safetensors` or torch's format by the suffix, atomically.

    Args:
        state: tensors by name.
        path: the file.
        config: of the voice.
        iteration: the epoch.
        learning_rate: of the fresh optimizer.
        extra: plain values for the entry ``svc``.

    Raises:
        OutputError: full disk, read-only folder.
    """
    if path.suffix == SAFETENSORS:
        described = {"iteration": iteration, EXTRA: {k: v for k, v in extra.items() if _plain(v)}}
        save_safetensors(state, path, {EXTRA: json.dumps(described, sort_keys=True)})
        return
    content = {
        "model": dict(state),
        "iteration": iteration,
        "optimizer": fresh_optimizer(config, learning_rate),
        "learning_rate": learning_rate,
        EXTRA: dict(extra),
    }
    save_checkpoint(content, path)


def _plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
