"""The stage of ``svc preprocess`` that writes the pack, and what becomes of one that cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from svc.config import SvcConfig
from svc.dataset.features import FeatureCache
from svc.dataset.pack import NAME
from svc.dataset.packing import PackReport, pack_dataset
from svc.errors import OutputError
from svc.progress import Progress

_AGAIN = "svc preprocess --stage pack"


def run_pack_stage(
    root: Path,
    wavs: Sequence[Path],
    config: SvcConfig,
    *,
    needed: bool,
    progress: Progress | None = None,
) -> tuple[PackReport | None, list[str]]:
    """Bring the pack of a data set up to date.

    Args:
        root: folder of the data set.
        wavs: its clips that have features.
        config: encoder, rate and hop that features have to be of.
        needed: the pack was asked for; else training does without it where it cannot be written.
        progress: called after each clip that is written.

    Returns:
        What was done, None where it could not be, and notes for the user.

    Raises:
        DatasetError: not one clip can be packed.
        OutputError: it cannot be written, and is needed.
    """
    settings = FeatureCache.from_config(config).settings
    try:
        return pack_dataset(root, wavs, settings, progress=progress), []
    except OutputError as error:
        if needed:
            raise
        # Training would refuse a pack that is older than the features; without one it reads them.
        with contextlib.suppress(OSError):
            (root / NAME).unlink(missing_ok=True)
        return None, [f"{error}. Training reads the feature files instead; {_AGAIN}  tries again"]


def without_pack(root: Path) -> list[str]:
    """Return what the user should know who leaves the stage out."""
    path = root / NAME
    if not path.is_file():
        return []
    return [
        f"{path} is as it was: training refuses it where features are newer; delete it or run  "
        f"{_AGAIN}"
    ]
