"""Number formats, optimisers, and the watch for numbers that are none."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svc.config import TrainConfig
from svc.errors import ConfigError

WEIGHT_DECAY = 0.01  # AdamW's default, which the original trains with (spec_core 10, T16)
NORMS = ("gradient norm d", "gradient norm g")
"""Names of what is watched besides losses."""
_FUSED_DEVICES = ("cpu", "cuda", "mps")


def autocast_dtype(train: TrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the reduced precision of the nets, or None for float32.

    Args:
        train: `fp16_run` switches it on, `half_type` chooses.
        device: where the nets are.

    Returns:
        bfloat16, float16 or None.

    Raises:
        ConfigError: the device cannot do it.
    """
    if not train.fp16_run:
        return None
    return half_dtype(
        train.half_type, device, key="train.half_type", off='"train.fp16_run" to false'
    )


def half_dtype(kind: str, device: torch.device, *, key: str, off: str) -> torch.dtype:
    """Return a reduced precision that a device can train with.

    Args:
        kind: ``bf16`` or ``fp16``.
        device: where the nets are.
        key: of the config, for the message.
        off: what else to set, to switch it off: a key and its value.

    Raises:
        ConfigError: the device cannot do it.
    """
    if kind == "bf16":
        if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(
                f'{torch.cuda.get_device_name(device)} has no bfloat16: set "{key}" to "fp16" or '
                f"{off}"
            )
        return torch.bfloat16
    if device.type != "cuda":
        raise ConfigError(
            f'"{key}": "fp16" needs a CUDA device and this run is on {device.type}: set it to '
            f'"bf16", or {off}'
        )
    return torch.float16


def make_scaler(dtype: torch.dtype | None, device: torch.device) -> torch.amp.GradScaler:
    """Return a loss scaler, active for float16 only (spec_core 10, T9).

    bfloat16 has the range of float32 and needs none.
    """
    return torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)


def make_adamw(module: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """Return the optimizer of a voice's nets (spec_core 7.1)."""
    return adamw(
        module,
        lr=train.learning_rate,
        betas=(train.betas[0], train.betas[1]),
        eps=train.eps,
        weight_decay=WEIGHT_DECAY,
    )


def adamw(
    module: nn.Module, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW over all parameters of a net, fused where the device can."""
    parameters = list(module.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        fused=True if parameters[0].device.type in _FUSED_DEVICES else None,
    )
    # The original's scheduler refuses a resumed optimizer without it.
    optimizer.param_groups[0]["initial_lr"] = lr
    return optimizer


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the L2 norm of all gradients together, as a 0-dimensional tensor."""
    return torch.nn.utils.get_total_norm(
        [parameter.grad for parameter in parameters if parameter.grad is not None]
    )


def all_finite(modules: Iterable[nn.Module]) -> bool:
    """Return whether every parameter is a finite number; waits for the device."""
    norms = [
        norm
        for module in modules
        for norm in torch._foreach_norm([p.detach() for p in module.parameters()], torch.inf)
    ]
    return bool(torch.isfinite(torch.stack(norms)).all())


@dataclass(frozen=True)
class SeenStep:
    """What the host learns of a step."""

    step: int
    names: tuple[str, ...]
    """Clips of the batch."""
    values: dict[str, float]
    """Losses and gradient norms."""
    bad: bool
    """Whether it was skipped because a number was not finite, here or in another process."""
    suspects: tuple[str, ...]
    """Clips that gave what is not finite, where that is known."""

    @property
    def strange(self) -> dict[str, float]:
        """Values that are not finite."""
        return {name: value for name, value in self.values.items() if not math.isfinite(value)}


@dataclass(frozen=True)
class _Watched:
    step: int
    names: tuple[str, ...]
    what: tuple[str, ...]
    numbers: Tensor  # (1 + K + B,) on the host, filled once `ready`
    ready: torch.cuda.Event | None


class FiniteGuard:
    """Tells the host which steps were skipped, without making any step wait.

    On a CUDA device the numbers travel to the host beside the computation and are looked at a few
    steps later; `drain` without `keep` looks at all of them, and is called before anything is saved.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._pending: deque[_Watched] = deque()
        self.behind = 3 if self._on_cuda else 0
        """Steps whose numbers may be on their way."""

    def watch(
        self,
        step: int,
        names: tuple[str, ...],
        values: Mapping[str, Tensor],
        bad: Tensor,
        sound: Tensor,
    ) -> None:
        """Send the numbers of a step on their way to the host.

        Args:
            step: its number.
            names: clips of the batch.
            values: losses and gradient norms by name, each ().
            bad: () bool, whether the step was skipped for what is not finite.
            sound: (B,) bool, clips that gave finite numbers.
        """
        row = [bad.detach().float(), *(value.detach().float() for value in values.values())]
        numbers, ready = torch.cat([torch.stack(row), sound.detach().float()]), None
        if self._on_cuda:
            host = torch.empty(numbers.shape, pin_memory=True)
            host.copy_(numbers, non_blocking=True)
            numbers, ready = host, torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        self._pending.append(_Watched(step, names, tuple(values), numbers, ready))

    def drain(self, keep: int = 0) -> list[SeenStep]:
        """Return what is known by now of steps that were not returned before, all but the last
        `keep`.
        """
        seen = []
        while len(self._pending) > keep:
            watched = self._pending.popleft()
            if watched.ready is not None:
                watched.ready.synchronize()
            bad, *numbers = watched.numbers.tolist()
            count = len(watched.what)
            sound = zip(watched.names, numbers[count:], strict=True)
            seen.append(
                SeenStep(
                    watched.step,
                    watched.names,
                    dict(zip(watched.what, numbers[:count], strict=True)),
                    bool(bad),
                    tuple(name for name, good in sound if not good),
                )
            )
        return seen
