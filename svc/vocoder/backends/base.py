"""What a synthesizer asks of its decoder while it sings, and the decoders that are graphs."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from svc.vocoder.generator import Generator
from svc.vocoder.source import HarmonicSource, SourceNoise

FloatArray = npt.NDArray[np.float32]
Part = Literal["whole", "begin", "finish"]


class Decoder(Protocol):
    """Latents and pitch -> samples; a `Generator` is one."""

    hop_length: int  # samples per frame
    m_source: HarmonicSource

    def __call__(
        self, x: Tensor, f0: Tensor, g: Tensor | None = None, *, random: SourceNoise
    ) -> Tensor:
        """Sing.

        Args:
            x: (B, C, N) latent.
            f0: (B, N) Hz, unvoiced where <= 0.
            g: (B, G, 1) speaker, or (B, G, N) when it changes over time.
            random: the random part of the harmonic source.

        Returns:
            wav (B, 1, N · hop_length) in (-1, 1).
        """


class GeneratorPart(nn.Module):
    """A generator behind its harmonic source, or one of its two parts: what is recorded or compiled.

    Args:
        generator: folded.
        part: which.
    """

    def __init__(self, generator: Generator, part: Part) -> None:
        super().__init__()
        self.generator, self.part = generator, part

    def forward(self, x: Tensor, excitation: Tensor, g: Tensor | None = None) -> Tensor:
        """Compute; see `Generator.begin` and `Generator.finish`."""
        if self.part != "finish":
            x = self.generator.begin(x, excitation, g)
        return x if self.part == "begin" else self.generator.finish(x, excitation)


class GraphGenerator(nn.Module):
    """A generator whose net is run by another engine; it takes the place of the one it was made from.

    The harmonic source stays here, in torch: its phase is summed in float64, which is a thirtieth of the
    work of the fastest net, and which no half precision must touch.

    Args:
        generator: where the source and the hop length come from.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.hop_length = generator.hop_length
        self.m_source = generator.m_source

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device("cpu")

    def forward(
        self, x: Tensor, f0: Tensor, g: Tensor | None = None, *, random: SourceNoise
    ) -> Tensor:
        """Sing; see `Decoder`."""
        return self.sing(x, self.m_source(f0, random), g)

    def sing(self, x: Tensor, excitation: Tensor, g: Tensor | None = None) -> Tensor:
        """Sing with an excitation (B, 1, N · hop_length) that is there."""
        told = {"x": x, "excitation": excitation}
        if g is not None:
            told["g"] = g
        feed = {name: np.ascontiguousarray(value.numpy()) for name, value in told.items()}
        return torch.from_numpy(self.run(feed))

    def run(self, feed: dict[str, FloatArray]) -> FloatArray:
        """Compute samples (B, 1, N · hop_length) of the inputs of `svc.vocoder.backends.recording`."""
        raise NotImplementedError
