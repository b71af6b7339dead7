"""Random numbers inside a graph: the clients of MoeVoiceStudio's graphs give none (spec_onnx 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from svc.errors import import_extra
from svc.vocoder.source import HarmonicSource, SourceNoise

_PHASE, _NOISE = 0.25, 0.5  # stand for the random numbers when a graph is compared with its net


class SourceDraw(nn.Module):
    """Draws the random part of a harmonic source, as two random nodes of a graph.

    A graph with them gives another take each time, and none can be seeded.

    Args:
        source: what the numbers are for.
        draw: False for fixed numbers in their place, for comparisons.
    """

    overtones: Tensor

    def __init__(self, source: HarmonicSource, *, draw: bool = True) -> None:
        super().__init__()
        self.draw = draw
        self.hop_length = source.hop_length
        overtones = torch.ones(1, source.n_harmonics)
        overtones[:, 0] = 0  # the fundamental starts at 0
        self.register_buffer("overtones", overtones)

    def forward(self, n_frames: int) -> SourceNoise:
        """Draw for so many frames of one clip."""
        shape = (1, n_frames * self.hop_length, self.overtones.shape[1])
        if self.draw:
            return SourceNoise(
                torch.rand(self.overtones.shape) * self.overtones, torch.randn(shape)
            )
        return SourceNoise(_PHASE * self.overtones, torch.full(shape, _NOISE))


def fix_random_nodes(model: Any) -> None:
    """Put into a loaded graph, in the place of its random nodes, the numbers of `draw=False`.

    Raises:
        ValueError: it has others than the two of a harmonic source.
    """
    onnx = import_extra("onnx", "onnx")
    values = {"RandomNormal": _NOISE, "RandomUniform": _PHASE}
    nodes = [node for node in model.graph.node if node.op_type.startswith("Random")]
    kinds = [node.op_type.removesuffix("Like") for node in nodes]
    if sorted(kinds) != list(values):
        raise ValueError(f"the random nodes of a source are {list(values)}, found {kinds}")
    for node, kind in zip(nodes, kinds):
        size = f"{node.output[0]}_size"
        if node.op_type.endswith("Like"):
            before = onnx.helper.make_node("Shape", list(node.input), [size])
        else:
            (shape,) = (list(item.ints) for item in node.attribute if item.name == "shape")
            before = onnx.helper.make_node("Constant", [], [size], value_ints=shape)
        fill = onnx.helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [values[kind]])
        after = onnx.helper.make_node("ConstantOfShape", [size], list(node.output), value=fill)
        place = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        model.graph.node.insert(place, after)
        model.graph.node.insert(place, before)
