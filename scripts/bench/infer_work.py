"""How much a net has to compute, and how much the machine can: for the shares of the peak."""

from __future__ import annotations

from collections.abc import Callable

import torch
from infer_stages import CLOCKS
from torch.utils.flop_counter import FlopCounterMode

PRODUCT = {"cpu": {"fp32": 2048, "bf16": 4096}, "cuda": {"fp32": 8192, "bf16": 8192}}
"""Rows and columns of the square matrices, by device and precision."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the products and convolutions of `work`, two per multiply-add.

    Elementwise work is not counted; on the device "meta" nothing is computed.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return int(counter.get_total_flops())


def seconds_of(
    work: Callable[[], object], device: torch.device, runs: int, clock: str = "wall"
) -> tuple[float, float]:
    """Seconds of the first run, and the least of some runs after it; `clock` as of `Stages`."""
    now = CLOCKS[clock]
    taken = []
    for _ in range(1 + runs):
        _settle(device)
        begin = now()
        work()
        _settle(device)
        taken.append(now() - begin)
    return taken[0], min(taken[1:])


def product_peak(
    device: torch.device, precision: str, *, size: int | None = None, clock: str = "wall"
) -> float:
    """Floating-point operations per second of torch's matrix product at its best."""
    size = size or PRODUCT["cuda" if device.type == "cuda" else "cpu"][precision]
    made = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(size, size, generator=made).to(device, _DTYPES[precision]) for _ in range(2)
    )
    return 2 * size**3 / seconds_of(lambda: torch.mm(a, b), device, 5, clock)[1]


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
