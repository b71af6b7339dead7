"""Pitch predictors: what one is, which there are, how to get one."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from svc.audio.pitch import F0Track
from svc.config import F0_PREDICTORS
from svc.errors import ConfigError
from svc.f0.fcpe import build_fcpe
from svc.f0.praat import PraatPredictor
from svc.f0.settings import F0Settings
from svc.f0.world import WorldPredictor
from svc.pretrained import PRETRAIN_DIR

PREDICTOR_NAMES: tuple[str, ...] = ("pm", "dio", "harvest", "fcpe")
"""Ids that `build_f0_predictor` makes."""


class F0Predictor(Protocol):
    """Finds the pitch of a voice."""

    name: str  # id, e.g. "pm"

    def __call__(self, wav: npt.NDArray[np.float32]) -> F0Track:
        """Return the track of a mono wave (T,) at the predictor's sampling rate: N = T //
        hop_length frames.

        Gaps of f0 are filled; uv is 1 where the voice is voiced. T < hop_length gives empty arrays,
        a wave without any voiced frame zeros. Raises AudioError for NaN or infinite samples.
        """
        ...


def build_f0_predictor(
    name: str,
    *,
    sampling_rate: int = 44100,
    hop_length: int = 512,
    f0_min: float = 50.0,
    f0_max: float = 1100.0,
    threshold: float = 0.05,
    device: torch.device | str = "cpu",
    pretrain_dir: Path = PRETRAIN_DIR,
    compat: bool = False,
) -> F0Predictor:
    """Make a pitch predictor; weights are loaded once, so keep it for many waves.

    Args:
        name: an id of `PREDICTOR_NAMES`.
        sampling_rate: Hz, of the waves it will be given.
        hop_length: samples per frame of the track.
        f0_min: Hz, lowest pitch looked for.
        f0_max: Hz, highest.
        threshold: fcpe only: confidence in 0..1 up to which a frame is unvoiced.
        device: where fcpe computes; the others use the CPU.
        pretrain_dir: folder where an fcpe.pt is looked for.
        compat: so-vits-svc 4.1 to the last digit, with its slips: fcpe ignores the range, and the
            others fill gaps with float32 times and lose a single voiced frame (spec_f0 10).

    Returns:
        The predictor.

    Raises:
        ConfigError: unknown id, one that a later release brings, or a setting out of range.
        MissingFileError: no weights for fcpe.
        CheckpointError: they cannot be used.
    """
    settings = F0Settings(sampling_rate, hop_length, f0_min, f0_max, threshold, compat)
    if name == "pm":
        return PraatPredictor(settings)
    if name in ("dio", "harvest"):
        return WorldPredictor(name, settings)
    if name == "fcpe":
        return build_fcpe(settings, device=device, pretrain_dir=pretrain_dir)
    available = ", ".join(PREDICTOR_NAMES)
    if name in F0_PREDICTORS:
        raise ConfigError(
            f'the F0 predictor "{name}" comes in a later release; available now: {available}'
        )
    near = difflib.get_close_matches(name, PREDICTOR_NAMES, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    raise ConfigError(f'unknown F0 predictor "{name}"{hint}; available: {available}')
