"""Pitch predictors: from a wave to F0 in Hz and voicing per frame."""

from __future__ import annotations

from svc.f0.base import (
    PREDICTOR_NAMES,
    F0Predictor,
    build_f0_predictor,
    resolve_f0_predictor,
)

__all__ = ["PREDICTOR_NAMES", "F0Predictor", "build_f0_predictor", "resolve_f0_predictor"]
