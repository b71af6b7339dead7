"""What the makers of nets share (runs in the oracle's environment): random weights, and float64."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from cases import Tap
from torch import Tensor, nn

SEED = 20240601


@dataclass
class Net:
    """A net of another project, how to run it and how its files are made."""

    module: nn.Module
    # (1, T) float32 or float64 samples, taps -> (S, C) of each tap
    run: Callable[[Tensor, tuple[Tap, ...]], dict[Tap, Tensor]]
    # folder -> the files, in the order of Case.files
    save: Callable[[Path], list[Path]]
    # the positional convolution's weight, norm folded
    position: Callable[[], Tensor] | None = None
    # wave -> what `run` takes, where that is not the wave itself
    prepare: Callable[[Tensor], Tensor] = lambda wave: wave


def perturb(module: nn.Module) -> None:
    """Move everything that a fresh net holds at 0 or 1, so that nothing left out goes unnoticed.

    Norms and gains of weight norm by a fifth, biases by a tenth; queries and keys are doubled, or
    attention would be almost even. Activations keep the scale of a fresh net's.
    """
    generator = torch.Generator().manual_seed(SEED)

    def noise(like: Tensor, scale: float) -> Tensor:
        return scale * torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for name, value in module.named_parameters():
            *_, owner, last = f".{name}".split(".")
            if last in ("weight_g", "original0") or "const" in last or "dummy" in last:
                value.mul_(1 + noise(value, 0.2))
            elif "bias" in last:
                value.add_(noise(value, 0.1))
            elif value.dim() == 1:  # weight of a norm
                value.mul_(1 + noise(value, 0.2))
            elif owner in ("q_proj", "k_proj", "query", "key"):
                value.mul_(2)
            elif last == "in_proj_weight":
                value[: 2 * len(value) // 3].mul_(2)


def round_to_half(module: nn.Module) -> None:
    """Round all weights to float16 and keep them as float32."""
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            value.copy_(value.half().float())


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Run a net whose weights were made float64 in float64 throughout.

    Some layers cast to float32 with `.float()`, for the sake of half precision; here that leaves
    float64 as it is.
    """
    plain = Tensor.float

    def keep(self: Tensor, *args: object, **kwargs: object) -> Tensor:
        return self if self.dtype == torch.float64 else plain(self, *args, **kwargs)

    Tensor.float = keep
    try:
        yield
    finally:
        Tensor.float = plain


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state of a net as plain tensors."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def layer_outputs(
    layers: nn.ModuleList, forward: Callable[[], Tensor], taps: tuple[Tap, ...]
) -> dict[int | None, Tensor]:
    """Run a net and catch what the tapped layers give; None: what the net gives."""
    caught: dict[int | None, Tensor] = {}

    def catch(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            caught[number] = output[0] if isinstance(output, tuple) else output

        return hook

    wanted = {layer for layer, _ in taps if layer is not None}
    handles = [layers[number - 1].register_forward_hook(catch(number)) for number in wanted]
    try:
        caught[None] = forward()
    finally:
        for handle in handles:
            handle.remove()
    return caught
