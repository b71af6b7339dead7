"""Diffusion voices: mels from units and pitch, or finer mels from those of another voice."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svc.diffusion.denoiser import Denoiser
    from svc.diffusion.loading import load_diffusion
    from svc.diffusion.samplers import METHODS, Plan, check_sampling, make_plan, sampler_name
    from svc.diffusion.schedule import schedule_arrays
    from svc.diffusion.unit2mel import Unit2Mel

__all__ = [
    "METHODS",
    "Denoiser",
    "Plan",
    "Unit2Mel",
    "check_sampling",
    "load_diffusion",
    "make_plan",
    "sampler_name",
    "schedule_arrays",
]

_HOMES = {
    "Denoiser": "denoiser",
    "Unit2Mel": "unit2mel",
    "load_diffusion": "loading",
    "schedule_arrays": "schedule",
}


def __getattr__(name: str) -> Any:
    # Exported graphs are sampled by the same files without torch, so no net is imported here.
    if name in __all__:
        home = importlib.import_module(f"svc.diffusion.{_HOMES.get(name, 'samplers')}")
        return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
