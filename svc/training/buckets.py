"""Gradients laid end to end, so that a net of a thousand tensors is sent in a few pieces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BUCKET_BYTES = 25 * 2**20


def into_buckets(
    parameters: Sequence[nn.Parameter], size: int = BUCKET_BYTES
) -> list[list[nn.Parameter]]:
    """Group parameters of one type, in their order.

    Args:
        parameters: of one net.
        size: bytes of a bucket; a larger parameter has one of its own.
    """
    groups: list[list[nn.Parameter]] = []
    used: dict[torch.dtype, int] = {}
    current: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        kind, own = parameter.dtype, parameter.numel() * parameter.element_size()
        if kind not in current or used[kind] + own > size:
            current[kind], used[kind] = [], 0
            groups.append(current[kind])
        current[kind].append(parameter)
        used[kind] += own
    return groups


def flatten_gradients(bucket: Sequence[nn.Parameter]) -> Tensor:
    """Return the gradients of a bucket end to end, (N,): a copy, zeros where there is none."""
    grads = (torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in bucket)
    return torch.cat([grad.reshape(-1) for grad in grads])


def spread_gradients(bucket: Sequence[nn.Parameter], flat: Tensor, present: Sequence[bool]) -> None:
    """Put what `flatten_gradients` has collected back into the gradients.

    Args:
        bucket: parameters.
        flat: (N,).
        present: which of them have a gradient afterwards; where one has, it stays the same tensor.
    """
    targets: list[Tensor] = []
    sources: list[Tensor] = []
    pieces = torch.split(flat, [parameter.numel() for parameter in bucket])
    for parameter, piece, wanted in zip(bucket, pieces, present, strict=True):
        if parameter.grad is not None:
            targets.append(parameter.grad)
            sources.append(piece.view_as(parameter))
        elif wanted:
            parameter.grad = piece.view_as(parameter).clone()
    if targets:
        torch._foreach_copy_(targets, sources)
