"""Packs of recordings and features (`svc.dataset.pack`): their index says everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from svc.config import encoders_of_width
from svc.dataset.feature_settings import is_edited
from svc.dataset.pack import Pack, PackedClip
from svc.errors import DatasetError
from svc.inspection.report import Fact, Finding, Safety
from svc.safe_pickle import printable

PACK = "pack"
_WHAT = "pack of recordings and features of a data set"
_SAFETY = Safety(True, "numbers, and an index in JSON: nothing in it can be run")


def describe_pack(path: Path) -> Finding:
    """Describe a pack by its index."""
    try:
        pack = Pack(path)
    except DatasetError as error:
        reason = str(error).removeprefix(f"{path} is ").removeprefix("damaged: ")
        return Finding(PACK, _WHAT, safety=_SAFETY, damage=reason)
    clips = list(pack.clips.values())
    facts: dict[str, Fact] = {
        "clips": len(clips),
        "speakers": _count(clip.speaker for clip in clips),
        "minutes": round(sum(clip.n_samples / max(clip.rate, 1) for clip in clips) / 60, 2),
        "sampling_rate": _few(clip.rate for clip in clips),
        "parts": _count(part for clip in clips for part in clip.arrays if part != "wav"),
    }
    widths = {clip.arrays["units"].shape[-1] for clip in clips if "units" in clip.arrays}
    facts["ssl_dim"] = _few(widths)
    for fact, part, key in (
        ("speech_encoder", "units", "speech_encoder"),
        ("f0_predictor", "f0", "f0_predictor"),
        ("hop_length", "f0", "hop_length"),
    ):
        facts[fact] = _few(_made(clip, part, key) for clip in clips)
    pack.close()
    fits = tuple(
        f"a voice with model.ssl_dim {width}"
        + (f": {', '.join(names)}" if (names := encoders_of_width(width)) else "")
        for width in sorted(widths)
    )
    return Finding(PACK, _WHAT, facts, fits=fits, safety=_SAFETY)


def _made(clip: PackedClip, part: str, key: str) -> Any:
    record = (clip.made or {}).get(part)
    if not isinstance(record, Mapping):
        return None
    return "edited" if is_edited(record) and key not in record else record.get(key)


def _count(values: Iterable[str]) -> dict[str, Fact]:
    return {printable(name): count for name, count in sorted(Counter(values).items())}


def _few(values: Iterable[Any]) -> Fact:
    """The value that all have, or the different ones; None where nothing says it."""
    found: list[Fact] = []
    for value in dict.fromkeys(values):
        if isinstance(value, int | float):
            found.append(value)
        elif value is not None:
            found.append(printable(str(value)))
    return found[0] if len(found) == 1 else found or None
