"""What infer.py measures: the plain path, each optimisation alone on top of it, and `svc infer`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from svc.training.machine import best_precision

PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}
"""What a back end needs."""


@dataclass(frozen=True)
class Row:
    """One way to convert a song.

    Attributes:
        label: in the table.
        ours: `svc infer`, else the plain path with some steps replaced.
        generator: of the plain path, a name of `infer_nets.generator_of`.
        latent: of the plain path: "plain" or "ours", prior and flow.
        encoder: of the plain path: "plain", or the precision of ours.
        ahead: of the plain path: slices whose F0 is computed ahead.
        backend: of ours (`--backend`).
        precision: of ours (`--precision`).
        compiled: of ours (`--compile`).
        batched: of ours: windows are rendered together where that is worth it.
        always: measured on long songs, too.
    """

    label: str
    ours: bool = False
    generator: str = "plain"
    latent: str = "plain"
    encoder: str = "plain"
    ahead: int = 0
    backend: str = "torch"
    precision: str = "fp32"
    compiled: bool = False
    batched: bool = True
    always: bool = False


def backends() -> list[str]:
    """Back ends of the generator besides torch whose packages are installed."""
    return [name for name, needed in PACKAGES.items() if all(find_spec(p) for p in needed)]


def rows(device: str, *, compiled: bool) -> list[Row]:
    """The plain path first."""
    half = best_precision(torch.device(device)) != "fp32"
    found = [
        Row("plain", always=True),
        Row("weight norm folded", generator="folded"),
        Row("harmonic source in closed form", generator="source"),
        Row("prior and flow of svc", latent="ours"),
        Row("encoder of svc", encoder="fp32"),
        Row("F0 ahead", ahead=1),
        Row("generator laid out", generator="torch fp32"),
    ]
    if half:
        found += [
            Row("generator in bf16", generator="torch bf16"),
            Row("encoder in bf16", encoder="bf16"),
        ]
    return [*found, Row("svc infer, fp32", ours=True, always=True)]


@dataclass(frozen=True)
class NetRow:
    """A net alone.

    Attributes:
        net: one of `NETS`.
        label: who computes it, in the table.
        name: as of `infer_nets.net_of`.
        precision: of its products, "fp32" or "bf16".
    """

    net: str
    label: str
    name: str
    precision: str = "fp32"


NETS = ("generator", "prior and flow", "encoder")


def net_rows(device: str, *, compiled: bool) -> list[NetRow]:
    """Every net, the plain one first."""
    found = [NetRow("generator", "plain", "plain"), NetRow("generator", "weight norm folded", "folded"),
    NetRow("generator", "torch fp32", "torch fp32"),NetRow("generator", "torch bf16", "torch bf16", "bf16"),
    NetRow("prior and flow", "plain", "plain"), NetRow("prior and flow", "svc", "ours"),
    NetRow("encoder", "plain", "plain"), NetRow("encoder", "svc fp32", "fp32"), NetRow("encoder", "svc bf16", "bf16", "bf16"),]
    return found
