"""Number formats, optimisers and the watch for numbers that are none."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svc.config import TrainConfig
from svc.errors import ConfigError, SvcError

WEIGHT_DECAY = 0.01  # AdamW's default, which the original trains with (spec_core 10, T16)
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


@dataclass(frozen=True)
class _Watched:
    step: int
    what: tuple[str, ...]
    values: Tensor  # (K,) on the host, filled once `ready`
    names: tuple[str, ...]
    ready: torch.cuda.Event | None


class FiniteGuard:
    """Raises when a loss is not a finite number, naming the clips of its batch.

    On a CUDA device the numbers travel to the host beside the computation and are looked at a few
    steps later, so that no step waits; `drain` looks at all of them, and is called before anything
    is saved.

    Args:
        device: where the losses are.
    """

    _BEHIND = 3  # steps

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._pending: deque[_Watched] = deque()

    def watch(self, losses: Mapping[str, Tensor], step: int, names: tuple[str, ...]) -> None:
        """Look at the losses of a step, at once or soon.

        Args:
            losses: 0-dimensional tensors by name.
            step: number of the step.
            names: clips of the batch.

        Raises:
            SvcError: a loss of this or of a recent step is NaN or infinite.
        """
        values, ready = torch.stack([value.detach().float() for value in losses.values()]), None
        if self._on_cuda:
            host = torch.empty(values.shape, pin_memory=True)
            host.copy_(values, non_blocking=True)
            values, ready = host, torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        self._pending.append(_Watched(step, tuple(losses), values, names, ready))
        self.drain(keep=self._BEHIND if self._on_cuda else 0)

    def drain(self, keep: int = 0) -> None:
        """Look at all watched steps but the last `keep`. Raises SvcError."""
        while len(self._pending) > keep:
            watched = self._pending.popleft()
            if watched.ready is not None:
                watched.ready.synchronize()
            bad = [
                f"{name} = {value}"
                for name, value in zip(watched.what, watched.values.tolist(), strict=True)
                if value - value != 0.0
            ]
            if bad:
                raise SvcError(
                    f"the loss is not a finite number at step {watched.step} ({', '.join(bad)}); "
                    f"clips of this batch: {', '.join(watched.names)}; listen to them, or lower "
                    "--learning_rate; nothing of this was saved, the last checkpoint is good"
                )
