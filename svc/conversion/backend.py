"""What conversion needs of a voice, whatever computes it: torch nets, or exported graphs.

No torch here and in everything that goes through a song: `svc infer --backend onnx` runs without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from svc.audio.pitch import F0Track
from svc.conversion.chunks import FloatArray
from svc.conversion.compute import Computing
from svc.conversion.options import InferOptions
from svc.conversion.windows import Window
from svc.errors import DeviceError
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

    @property
    def computing(self) -> Computing:
        """How its nets are computed."""

    def check_options(self, options: InferOptions, singers: Mapping[str, int]) -> None:
        """Raise ConfigError when the voice lacks what the options ask for.

        Args:
            options: of the conversion.
            singers: name and id of who is going to sing; empty = not known yet.
        """

    @property
    def batch_frames(self) -> int:
        """Frames of windows that are worth rendering together; 0 = one window at a time.

        A hint for whoever collects windows: `render_many` takes any number of them and splits them
        itself. It can become smaller, where the device turned out to have less memory than it said.
        """

    def render_many(
        self, windows: Sequence[Window], speaker: int, options: InferOptions
    ) -> list[FloatArray]:
        """Convert several stretches, each as if it were alone.

        Random numbers of a window depend on `options.seed` and its length only, and padding is masked
        everywhere, so who else is in the batch decides rounding alone: samples agree within 1e-5, and
        within 5e-5 where a diffusion model or the enhancer has gone over them.

        Args:
            windows: any number, of any lengths n >= hop_length; none is longer for the company.
            speaker: id of who sings the windows without weights.
            options: transpose, auto_f0, noise_scale, loudness_envelope, keep_breath, keep_unvoiced,
                cluster_ratio, protect, k_step, second_encoding, enhancer_key and seed are used.

        Returns:
            Of each window, in their order, float32 (n // hop_length * hop_length,) at the voice's
            rate; as long as the original's where it has an enhancer and `compat`.

        Raises:
            SvcError: the model produced NaN.
            RuntimeError, MemoryError: a window alone does not fit into the memory
                (`out_of_memory` knows them); several that do not fit together are told by a warning
                and rendered in smaller groups.
        """

    def render(
        self,
        window: FloatArray,
        speaker: int | FloatArray,
        options: InferOptions,
        track: F0Track | None = None,
    ) -> FloatArray:
        """Convert one stretch: `render_many` of one window.

        Args:
            window: float32 (n,) at the voice's rate, n >= hop_length.
            speaker: id, or float32 (n // hop_length, S) weights of the ids 0 ... S - 1 per frame.
            options: as for `render_many`.
            track: the melody, n // hop_length frames; None = what the predictor hears.

        Returns:
            As `render_many`, of the one.
        """

    @property
    def give_back(self) -> Callable[[], None]:
        """What gives the memory back to the device once the voice itself is gone; holds no model."""


class OneWindow:
    """The `render` of a `Backend`: one window, as many."""

    def render(
        self: RendersMany,
        window: FloatArray,
        speaker: int | FloatArray,
        options: InferOptions,
        track: F0Track | None = None,
    ) -> FloatArray:
        """Convert one stretch; see `Backend.render`."""
        if isinstance(speaker, int):
            return self.render_many([Window(window, track)], speaker, options)[0]
        return self.render_many([Window(window, track, speaker)], 0, options)[0]


class RendersMany(Protocol):
    """What `OneWindow` is mixed into."""

    def render_many(
        self, windows: Sequence[Window], speaker: int, options: InferOptions
    ) -> list[FloatArray]:
        """See `Backend.render_many`."""


_FULL = (
    "out of memory",  # CUDA error: out of memory; MPS backend out of memory; HIP out of memory
    "allocate memory",  # torch on a CPU, onnxruntime
    "not enough memory",  # torch on a CPU under Windows
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED, CUFFT_ALLOC_FAILED
    "allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "out_of_device_memory",  # oneAPI's drivers
    "out_of_host_memory",
    "out_of_resources",
)
"""What errors without a class of their own say where the memory is full, in lower case."""
_OF_HOST = ("allocate memory", "not enough memory", "out_of_host_memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether a RuntimeError or MemoryError says that the memory of a device is full.

    Some come as an error of their own, which cannot be named where there is no torch, and some as a
    plain RuntimeError of an allocator, a driver or a library of kernels.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error).lower()
    return bool(names & {"OutOfMemoryError", "MemoryError"}) or any(said in text for said in _FULL)


@contextmanager
def loading_told() -> Iterator[None]:
    """Say what to do when the memory is full before anything is sung; also a decorator.

    Raises:
        DeviceError: instead of a RuntimeError or MemoryError that `out_of_memory` knows.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(said in text for said in _OF_HOST):
            raise DeviceError(
                "out of memory while the models are loaded: close other programs on this machine"
            ) from error
        raise DeviceError(
            "out of memory on the GPU while the models are loaded: use -d cpu, or free the GPU's memory"
        ) from error
