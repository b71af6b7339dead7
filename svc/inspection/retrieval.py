"""Files of timbre retrieval: k-means centres, and indexes of frames (spec_cluster_index 1, 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from svc.config import SvcConfig, encoders_of_width
from svc.errors import CheckpointError, SvcError
from svc.inspection.report import Fact, Finding, Safety
from svc.inspection.settings import Settings
from svc.inspection.weights import Weights
from svc.retrieval.index_files import StoredIndex, map_file, open_folder
from svc.retrieval.legacy_index import open_legacy
from svc.safe_pickle import printable

CLUSTERS = "k-means centres"
INDEX = "retrieval index"
CONFIGS = ("config.json",)
_CENTRES = "cluster_centers_"


def recognise_clusters(weights: Weights) -> Finding | None:
    """Return what a file of k-means centres is; None for other weights."""
    centres = _centres(weights.value)
    if not centres:
        return None
    counts = {name: int(tensor.shape[0]) for name, tensor in centres.items() if tensor.dim() == 2}
    widths = {int(tensor.shape[1]) for tensor in centres.values() if tensor.dim() == 2}
    damage = None
    if len(counts) < len(centres) or len(widths) != 1:
        damage = "its centres are not tables [centres, units] of one width"
    width = min(widths, default=0)
    facts: dict[str, Fact] = {
        "units": width,
        "speakers": list(centres),
        "centres": counts,
        "precision": " and ".join(
            sorted({str(t.dtype).removeprefix("torch.") for t in centres.values()})
        ),
    }
    return Finding(
        CLUSTERS,
        f"k-means centres of {_voices(len(centres))}",
        facts,
        fits=_fits(width),
        notes=("of which speech encoder the centres are, it does not say",),
        damage=damage,
        compare=lambda settings: _compare(width, set(centres), settings),
        beside=CONFIGS,
    )


def _centres(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    return {
        printable(str(name)): entry[_CENTRES]
        for name, entry in value.items()
        if isinstance(entry, Mapping) and isinstance(entry.get(_CENTRES), Tensor)
    }


def _voices(count: int) -> str:
    return f"{count} voice{'' if count == 1 else 's'}"


def _fits(width: int) -> tuple[str, ...]:
    names = encoders_of_width(width)
    encoder = (
        f"with a speech encoder such as {', '.join(names)}" if names else "(no encoder of svc)"
    )
    return (f"a voice whose config has model.ssl_dim {width}, {encoder}",)


def _compare(width: int, voices: set[str] | set[int], settings: Settings) -> list[str] | None:
    if not isinstance(settings, SvcConfig):
        return None
    found = []
    if width != settings.model.ssl_dim:
        found.append(f"it holds units {width} wide, model.ssl_dim is {settings.model.ssl_dim}")
    absent = [
        name for name, number in settings.spk.items() if name not in voices and number not in voices
    ]
    if len(absent) == len(settings.spk):
        theirs = ", ".join(map(str, sorted(voices, key=str)[:3]))
        found.append(f"it knows none of the config's speakers, but {theirs}")
    return found


def native_index(path: Path) -> Finding:
    """Describe a native faiss file."""
    safety = Safety(
        True, "an index of faiss: numbers only, its layout checked before faiss sees it"
    )
    try:
        stored = StoredIndex.of(path.name, map_file(path))
    except CheckpointError as error:
        return Finding(
            INDEX,
            "retrieval index (native faiss file)",
            safety=safety,
            damage=_reason(error, path.name),
        )
    width = stored.facts.dim
    return Finding(
        INDEX,
        "retrieval index of one voice (native faiss file)",
        {"units": width, **_index_facts(stored)},
        fits=_fits(width),
        safety=safety,
        compare=lambda settings: _compare_native(width, settings),
        beside=CONFIGS,
    )


def _compare_native(width: int, settings: Settings) -> list[str] | None:
    if not isinstance(settings, SvcConfig) or width == settings.model.ssl_dim:
        return [] if isinstance(settings, SvcConfig) else None
    return [f"it holds units {width} wide, model.ssl_dim is {settings.model.ssl_dim}"]


def _index_facts(stored: StoredIndex) -> dict[str, Fact]:
    facts = stored.facts
    return {"vectors": facts.rows, "lists": facts.n_lists, "lists_searched": facts.nprobe}


def old_index(path: Path, harmless: int) -> Finding:
    """Describe a `feature_and_index.pkl`, of which it is known that it names nothing harmful."""
    what = "retrieval index of so-vits-svc 4.1 (pickle of faiss indexes)"
    safety = Safety(
        True, "a pickle that names only indexes of faiss, read without running it", harmless
    )
    try:
        found = open_legacy(path)
    except SvcError as error:
        return Finding(INDEX, what, safety=safety, damage=_reason(error, str(path)))
    widths = {stored.facts.dim for stored in found.values()}
    width = min(widths)
    facts: dict[str, Fact] = {
        "units": width,
        "speaker_ids": list(found),
        "indexes": {str(number): _index_facts(stored) for number, stored in found.items()},
    }
    return Finding(
        INDEX,
        f"{what}, {_voices(len(found))}",
        facts,
        fits=_fits(width),
        notes=("of which speech encoder its vectors are, it does not say",),
        safety=safety,
        damage="its indexes are of several widths" if len(widths) > 1 else None,
        compare=lambda settings: _compare(width, set(found), settings),
        beside=CONFIGS,
    )


def index_folder(folder: Path) -> Finding:
    """Describe a folder that `svc train-index` has written, side-car and all."""
    what = "retrieval index of svc (folder)"
    safety = Safety(True, "native faiss files: numbers only, compared with their checksums")
    try:
        record, stored = open_folder(folder)
    except SvcError as error:
        return Finding(INDEX, what, safety=safety, damage=str(error))
    facts: dict[str, Fact] = {
        "units": record.dim,
        "speech_encoder": printable(record.encoder),
        "speakers": [printable(name) for name in record.speakers],
        "indexes": {
            printable(name): {"id": entry.id, **_index_facts(stored[entry.id])}
            for name, entry in record.speakers.items()
        },
        "svc_version": printable(record.svc_version),
    }
    return Finding(
        INDEX,
        f"{what}, {_voices(len(record.speakers))}",
        facts,
        fits=(f"a voice on the speech encoder {printable(record.encoder)}, {record.dim} wide",),
        safety=safety,
        compare=lambda settings: (
            _compare_folder(record.encoder, record.dim, settings)
            if isinstance(settings, SvcConfig)
            else None
        ),
    )


def _compare_folder(encoder: str, width: int, config: SvcConfig) -> list[str]:
    found = _compare_native(width, config) or []
    if encoder != config.model.speech_encoder:
        found.append(
            f"it holds units of {printable(encoder)}, the config's speech encoder is "
            f"{config.model.speech_encoder}"
        )
    return found


def _reason(error: Exception, what: str) -> str:
    return str(error).removeprefix(f"{what}: ")
