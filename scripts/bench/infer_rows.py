"""What infer.py measures: the plain path, each optimisation alone on top of it, and `svc infer`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from svc.devices import best_precision

PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
"""What the back ends of the generator need besides torch."""


@dataclass(frozen=True)
class Row:
    """One way to convert a song.

    Attributes:
        label: in the table.
        generator: of the plain path, a name of `infer_nets.generator_of`.
        latent: of the plain path: "plain" or "ours", prior and flow.
        encoder: "plain", or the precision of ours (`--encoder_precision`).
        ahead: of the plain path: slices whose F0 is computed ahead.
        ours: `svc infer` instead of the plain path; what follows is for it.
        backend: `--backend`.
        precision: `--precision`.
        compiled: `--compile`.
        batched: windows are rendered together where that is worth it.
        always: measured on long songs, too.
    """

    label: str
    generator: str = "plain"
    latent: str = "plain"
    encoder: str = "plain"
    ahead: int = 0
    ours: bool = False
    backend: str = "torch"
    precision: str = "fp32"
    compiled: bool = False
    batched: bool = True
    always: bool = False


@dataclass(frozen=True)
class NetRow:
    """A net alone.

    Attributes:
        net: "generator", "prior and flow" or "encoder".
        label: who computes it, in the table.
        name: as of `infer_nets.net_of`.
        precision: of its products, "fp32" or "bf16".
    """

    net: str
    label: str
    name: str
    precision: str = "fp32"


def backends(device: str) -> list[str]:
    """Back ends of the generator besides torch: those whose packages are installed, on the CPU."""
    if device != "cpu":
        return []
    return [name for name, needed in PACKAGES.items() if all(map(find_spec, needed))]


def rows(device: str, *, compiled: bool) -> list[Row]:
    """All rows, the plain path first."""
    half = best_precision(torch.device(device)) != "fp32"
    others = backends(device)
    found = [
        Row("plain", always=True),
        Row("weight norm folded", generator="folded"),
        Row("harmonic source in closed form", generator="source"),
        Row("prior and flow of svc", latent="ours"),
        Row("encoder of svc", encoder="fp32"),
        Row("F0 of the next slice ahead", ahead=1),
        Row("generator folded and laid out", generator="torch fp32"),
        *(Row(f"generator on {name}", generator=f"{name} fp32") for name in others),
    ]
    if half:
        found += [
            Row("generator in bf16", generator="torch bf16"),
            *(
                Row("generator on openvino in bf16", generator="openvino bf16")
                for name in others
                if name == "openvino"
            ),
            Row("encoder in bf16", encoder="bf16"),
        ]
    found += [ours("svc infer, fp32", always=True)]
    found += [ours(f"svc infer, {name}", backend=name) for name in others]
    best = "bf16" if half else "fp32"
    if half:
        found += [ours("svc infer, bf16", precision="bf16")]
        found += [ours("svc infer, bf16, encoder too", precision="bf16", encoder="bf16")]
        if "openvino" in others:
            found += [ours("svc infer, openvino, bf16", backend="openvino", precision="bf16")]
    if device != "cpu":
        found += [
            ours("svc infer, fp32, one by one", batched=False),
            ours("svc infer, bf16, one by one", precision=best, batched=False),
        ]
    if compiled:
        found += [ours("svc infer, --compile", precision=best, compiled=True)]
    fastest = ours("svc infer, fastest", backend="auto", precision="auto", always=True)
    return [*found, fastest]


def ours(label: str, *, encoder: str = "fp32", **settings: Any) -> Row:
    """A row of `svc infer`."""
    return Row(label, ours=True, encoder=encoder, **settings)


def net_rows(device: str, *, compiled: bool) -> list[NetRow]:
    """Every net; of each the plain one first."""
    half = best_precision(torch.device(device)) != "fp32"
    others = backends(device)
    found = [
        NetRow("generator", "plain", "plain"),
        NetRow("generator", "weight norm folded", "folded"),
        NetRow("generator", "torch, laid out", "torch fp32"),
        *(NetRow("generator", name, f"{name} fp32") for name in others),
    ]
    if half:
        found += [NetRow("generator", "torch, bf16", "torch bf16", "bf16")]
        if "openvino" in others:
            found += [NetRow("generator", "openvino, bf16", "openvino bf16", "bf16")]
    if compiled:
        best = "bf16" if half else "fp32"
        found += [NetRow("generator", "torch, --compile", f"torch {best} compiled", best)]
    found += [
        NetRow("prior and flow", "plain", "plain"),
        NetRow("prior and flow", "svc", "ours"),
        NetRow("encoder", "plain", "plain"),
        NetRow("encoder", "svc, fp32", "fp32"),
    ]
    return [*found, *([NetRow("encoder", "svc, bf16", "bf16", "bf16")] if half else [])]
