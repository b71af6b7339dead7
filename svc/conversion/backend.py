"""What conversion needs of a voice, whatever computes it: torch nets, or exported graphs.

No torch here and in everything that goes through a song: `svc infer --backend onnx` runs without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from svc.audio.pitch import F0Track
from svc.conversion.chunks import FloatArray
from svc.conversion.options import InferOptions
from svc.f0.base import F0Predictor
from svc.f0.voice_range import VoiceRange


class Backend(Protocol):
    """The models of a voice and the facts that going through a song needs."""

    @property
    def speakers(self) -> Mapping[str, int]:
        """Name -> id."""

    @property
    def sampling_rate(self) -> int:
        """Rate of what is rendered, Hz."""

    @property
    def hop_length(self) -> int:
        """Samples per frame."""

    @property
    def compat(self) -> bool:
        """Cut, join and round as so-vits-svc 4.1 does."""

    @property
    def ranges(self) -> Mapping[str, VoiceRange]:
        """Which notes each speaker sings, of those for whom that is known."""

    @property
    def f0_predictor(self) -> F0Predictor | None:
        """Melody detector; None where every song comes with a pitch curve."""

    @property
    def usual_seconds(self) -> float:
        """Longest stretch whose units are like those of training clips."""

    @property
    def where(self) -> str:
        """Where it computes, for messages."""

    def check_options(self, options: InferOptions, singers: Mapping[str, int]) -> None:
        """Raise ConfigError when the voice lacks what the options ask for.

        Args:
            options: of the conversion.
            singers: name and id of who is going to sing; empty = not known yet.
        """

    def render(
        self,
        window: FloatArray,
        speaker: int | FloatArray,
        options: InferOptions,
        track: F0Track | None = None,
    ) -> FloatArray:
        """Convert one stretch.

        Args:
            window: float32 (n,) at the voice's rate, n >= hop_length.
            speaker: id, or float32 (n // hop_length, S) weights of the ids 0 ... S - 1 per frame.
            options: transpose, auto_f0, noise_scale, loudness_envelope, cluster_ratio, protect,
                k_step, second_encoding, enhancer_key and seed are used.
            track: the melody, n // hop_length frames; None = what the predictor hears.

        Returns:
            float32 (n // hop_length * hop_length,) at the voice's rate; as long as the original's
            where it has an enhancer and `compat`.

        Raises:
            SvcError: the model produced NaN.
        """

    @property
    def give_back(self) -> Callable[[], None]:
        """What gives the memory back to the device once the voice itself is gone; holds no model."""
