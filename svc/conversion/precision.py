"""From what a user chose to how a voice computes, part by part.

Half precision is for the generator, which is nine tenths of a synthesizer's work. Measured on a trained
voice and 32 s of real singing, error below the voice and change of its pitch (praat on both):

| bf16 in | error | pitch, median and 95th percentile |
|---|---:|---:|
| generator but its source, first convolution and last two stages | 35-45 dB | 0.00 and 0.02 cents |
| the same in fp16 | 53-63 dB | 0.00 and 0.00 cents |
| prior encoder | 52-58 dB | 0.00 and 0.00 cents |
| flow | 56-66 dB | 0.00 and 0.00 cents |
| speech encoder (Whisper tiny) | 29-49 dB | 0.00 and 0.02 cents |

Prior encoder and flow are 4 % of the work, and stay float32. So does the speech encoder, which can fall
below 30 dB, unless `--encoder_precision` says otherwise: on one core with AMX it is 2.9 times as fast in
bf16 (ContentVec), as the whole synthesizer is 2.7 times as fast with its generator so. Diffusion follows
(`svc.conversion.refine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from svc.audio.pitch import F0Track
from svc.conversion.compute import ComputeChoice, Computing
from svc.conversion.options import DiffusionChoice
from svc.devices import best_precision, exact_arithmetic
from svc.errors import ConfigError
from svc.f0 import F0Predictor
from svc.f0.wave import F0Wave
from svc.synthesizer import Synthesizer
from svc.synthesizer.ends import generator_reach
from svc.vocoder import Generator
from svc.vocoder.backends.choose import check_backend, choose_backend, make_decoder
from svc.vocoder.backends.compiled import check_compiler


def settle_choice(
    choice: ComputeChoice, device: torch.device, *, compat: bool = False
) -> Computing:
    """Decide how a voice computes, and see that it can, before anything is loaded.

    Args:
        choice: what was asked for.
        device: where its nets will be.
        compat: the original's arithmetic, which is torch's in float32.

    Raises:
        ConfigError: what was asked for cannot be done.
        MissingDependencyError: a package or a compiler is missing; says how to install it.
        DeviceError: the CPU has no units for it.
        SvcError: torch.compile does not work here.
    """
    if compat:
        exact = choice.backend in ("auto", "torch") and choice.precision in ("auto", "fp32")
        if not exact or choice.compile:
            raise ConfigError(
                "--compat is the original's arithmetic, torch in fp32: leave out --backend, "
                "--precision and --compile"
            )
        return Computing()
    backend, precision = choose_backend(choice.backend, device), choice.precision
    if precision == "auto":
        precision = "fp32" if backend == "onnx" else best_precision(device, fp16=True)
    check_backend(backend, precision, device)
    if choice.compile:
        check_compiler(device)
    return Computing(backend, precision, choice.compile)


def settle_voice(net: Synthesizer, computing: Computing) -> None:
    """Give the generator of a voice to what computes it, in place; the net is for singing only then.

    Args:
        net: for inference, on its device, weight norm folded.
        computing: from `settle_choice`.

    Raises:
        SvcError: the engine cannot run it.
    """
    decoder = make_decoder(
        net.dec,
        computing.backend,
        computing.precision,
        compiled=computing.compiled,
        reach=generator_reach(net.config),
    )
    net.dec = cast("Generator", decoder)


def with_precision(choice: DiffusionChoice, computing: Computing) -> DiffusionChoice:
    """Return a choice of a diffusion model whose precision is said: where it is not, it is that of
    torch's nets.
    """
    if choice.precision is not None:
        return choice
    return replace(
        choice, precision=computing.precision if computing.backend == "torch" else "fp32"
    )


def exact_predictor(predictor: F0Predictor | None, device: torch.device) -> F0Predictor | None:
    """Return what computes a predictor's nets as the voice's are computed, whoever asks it.

    Args:
        predictor: as it was loaded; None stays None.
        device: where its nets are.
    """
    if predictor is None or device.type != "cuda":
        return predictor
    return _ExactPredictor(predictor, device)


class _ExactPredictor:
    """A predictor whose nets compute within `exact_arithmetic`; an `F0Predictor`."""

    def __init__(self, predictor: F0Predictor, device: torch.device) -> None:
        self._inner, self._device = predictor, device
        self.name, self.settings = predictor.name, predictor.settings

    def __call__(self, wav: npt.NDArray[np.float32] | F0Wave) -> F0Track:
        """Return the track of a wave; see `F0Predictor`."""
        with exact_arithmetic(self._device):
            return self._inner(wav)

    def track_batch(self, wavs: Sequence[npt.NDArray[np.float32] | F0Wave]) -> list[F0Track]:
        """Return the tracks of several waves; see `F0Predictor`."""
        with exact_arithmetic(self._device):
            return self._inner.track_batch(wavs)
