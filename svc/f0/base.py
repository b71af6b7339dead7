"""Pitch predictors: what one is, which there are, how to get one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track
from svc.config import ENSEMBLE_MEMBERS, F0_PREDICTORS, check_f0_predictor, ensemble_members
from svc.f0.ensemble import EnsemblePredictor
from svc.f0.praat import PraatPredictor
from svc.f0.settings import F0Settings
from svc.f0.swift import THRESHOLD as SWIFT_THRESHOLD
from svc.f0.swift import build_swift, swift_asset
from svc.f0.wave import F0Wave
from svc.f0.world import WorldPredictor
from svc.pretrained import PRETRAIN_DIR

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

PREDICTOR_NAMES: tuple[str, ...] = F0_PREDICTORS
"""Ids that `build_f0_predictor` makes, besides ``ensemble:a+b+c``."""

_THRESHOLD = 0.05  # of crepe, rmvpe and fcpe, as in so-vits-svc 4.1
# The most accurate without a download (docs/f0.md), with and without the swift-f0 package.
_AUTO = f"ensemble:{'+'.join(ENSEMBLE_MEMBERS)}"
_AUTO_WITHOUT_SWIFT = "ensemble:fcpe+crepe-tiny+dio"


class F0Predictor(Protocol):
    """Finds the pitch of a voice."""

    name: str  # id, e.g. "pm"
    settings: F0Settings

    def __call__(self, wav: npt.NDArray[np.float32] | F0Wave) -> F0Track:
        """Return the track of a mono wave (T,) at the predictor's sampling rate: N = T //
        hop_length frames.

        Gaps of f0 are filled; uv is 1 where the voice is voiced. T < hop_length gives empty arrays,
        a wave without any voiced frame zeros. Raises AudioError for NaN or infinite samples.
        """
        ...

    def track_batch(self, wavs: Sequence[npt.NDArray[np.float32] | F0Wave]) -> list[F0Track]:
        """Return the tracks of several waves of any lengths, each what it is alone; faster than one
        by one where the method can use it.
        """
        ...


def resolve_f0_predictor(name: str) -> str:
    """Return what an id stands for on this machine.

    ``ensemble`` becomes the ensemble of its usual members, and ``auto`` the most accurate of what
    needs no download, which depends on whether swift-f0 is installed; every other id stays as it
    is.

    Raises:
        ConfigError: an unknown id.
    """
    check_f0_predictor(name)
    if name == "ensemble":
        return _AUTO
    if name == "auto":
        return _AUTO if swift_asset() is not None else _AUTO_WITHOUT_SWIFT
    return name


def build_f0_predictor(
    name: str,
    *,
    sampling_rate: int = 44100,
    hop_length: int = 512,
    f0_min: float = 50.0,
    f0_max: float = 1100.0,
    threshold: float | None = None,
    device: torch.device | str = "cpu",
    pretrain_dir: Path = PRETRAIN_DIR,
    compat: bool = False,
) -> F0Predictor:
    """Make a pitch predictor; weights are loaded once, so keep it for many waves.

    Args:
        name: an id of `PREDICTOR_NAMES`, or ``ensemble:a+b`` with members of one's choice.
        sampling_rate: Hz, of the waves it will be given.
        hop_length: samples per frame of the track.
        f0_min: Hz, lowest pitch looked for.
        f0_max: Hz, highest.
        threshold: confidence in 0..1 up to which crepe, rmvpe, fcpe and swift call a frame
            unvoiced, also as members; None is 0.5 for swift, 0.05 for the others.
        device: where crepe, rmvpe and fcpe compute; the others use the CPU.
        pretrain_dir: folder where rmvpe.pt and fcpe.pt are looked for.
        compat: so-vits-svc 4.1 to the last digit, with its slips: rmvpe and fcpe ignore the range,
            crepe dithers, and pm, dio and harvest fill gaps with float32 times and lose a single
            voiced frame (spec_f0 10).

    Returns:
        The predictor; its name is what `resolve_f0_predictor` says.

    Raises:
        ConfigError: unknown id, or a setting out of range.
        MissingFileError: no weights for it.
        MissingDependencyError: swift without the packages of its extra.
        CheckpointError: weights that cannot be used.
    """
    resolved = resolve_f0_predictor(name)
    if resolved != name:
        logger.info("%s: %s", name, resolved)

    def build(single: str) -> F0Predictor:
        usual = SWIFT_THRESHOLD if single == "swift" else _THRESHOLD
        level = usual if threshold is None else threshold
        settings = F0Settings(sampling_rate, hop_length, f0_min, f0_max, level, compat)
        return _build_single(single, settings, device, pretrain_dir)

    members = ensemble_members(resolved)
    if not members:
        return build(resolved)
    built = [build(member) for member in members]
    return EnsemblePredictor(built, built[0].settings)


def _build_single(
    name: str, settings: F0Settings, device: torch.device | str, pretrain_dir: Path
) -> F0Predictor:
    if name == "pm":
        return PraatPredictor(settings)
    if name in ("dio", "harvest"):
        return WorldPredictor(name, settings)
    if name == "swift":
        return build_swift(settings)
    # The nets need torch, and the methods above are used without it.
    if name == "rmvpe":
        from svc.f0.rmvpe import build_rmvpe

        return build_rmvpe(settings, device=device, pretrain_dir=pretrain_dir)
    if name == "fcpe":
        from svc.f0.fcpe import build_fcpe

        return build_fcpe(settings, device=device, pretrain_dir=pretrain_dir)
    from svc.f0.crepe import build_crepe

    predictor = build_crepe(
        settings, device=device, size="tiny" if name == "crepe-tiny" else "full"
    )
    predictor.name = name
    return predictor
