"""Files of k-means centres (spec_cluster_index 1).

    logs/44k/kmeans_10000.pt     torch's format: {speaker name: {"n_features_in_": U, "_n_threads": 4,
                                 "cluster_centers_": numpy float32 (k, U)}}, which so-vits-svc 4.1 reads too
    logs/44k/kmeans_10000.json   ours: what the centres are made of, and the SHA-256 of the file beside it

Only the centres count. They are read without running code from the file; without a side-car nothing says which encoder
they belong to, and only their width is checked.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svc.atomic import output_error, write_text
from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.errors import CheckpointError, ConfigError
from svc.safe_pickle import printable

logger = logging.getLogger(__name__)

_CENTRES = "cluster_centers_"
_FORMAT = 1
_AGAIN = "make it again with  svc train-cluster"
_MAX_NAMES = 8  # speakers that a message lists


def cluster_path(folder: Path, k: int) -> Path:
    """Return where centres are written; k as it was asked for."""
    return folder / f"kmeans_{k}.pt"


def side_car_path(path: Path) -> Path:
    """Return the side-car of a file of centres."""
    return path.with_suffix(".json")


@dataclass(frozen=True)
class SpeakerFacts:
    """What the centres of one speaker are made of."""

    k: int
    """Centres."""
    rows: int
    """Frames."""
    inertia: float
    """Sum of the squared distances of all frames to the centre of their cluster."""
    spread: float
    """The same to the mean of all frames."""


@dataclass(frozen=True)
class ClusterFacts:
    """What the side-car says of a file of centres."""

    encoder: str | None
    """Content encoder of the units; None: not known."""
    dim: int
    """Their width U."""
    seed: int
    method: str
    """``minibatch`` or ``full``."""
    speakers: dict[str, SpeakerFacts]
    sha256: str = ""
    """Of the file beside it."""


# --------------------------------------------------------------------------------------------- writing


def save_clusters(path: Path, centres: Mapping[str, Tensor], facts: ClusterFacts) -> None:
    """Write centres in the original's format, and the side-car.

    Args:
        path: the file.
        centres: speaker name -> (k, U) float32.
        facts: for the side-car; its hash is filled in here.

    Raises:
        OutputError: full disk, read-only folder.
    """
    side_car = side_car_path(path)
    try:  # first, so that a crash in between leaves none that speaks of another file
        side_car.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(side_car, error) from error
    content = {
        name: {
            "n_features_in_": tensor.shape[1],
            "_n_threads": 4,
            _CENTRES: np.ascontiguousarray(tensor.cpu().numpy(), dtype=np.float32),
        }
        for name, tensor in centres.items()
    }
    save_checkpoint(content, path)
    plain = {"format": _FORMAT, **asdict(facts), "sha256": _sha256(path)}
    write_text(side_car, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------- reading


def read_facts(path: Path) -> ClusterFacts | None:
    """Read the side-car of a file of centres.

    Args:
        path: the file of centres.

    Returns:
        What it says; None where there is none, or where it speaks of another file, which is logged.

    Raises:
        ConfigError: it is damaged.
    """
    side_car = side_car_path(path)
    try:
        plain = json.loads(side_car.read_text(encoding="utf-8"))
        facts = _parse_facts(plain)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{side_car} says nothing of use about {path.name} ({error}); delete it or {_AGAIN}"
        ) from error
    if facts.sha256 != _sha256(path):
        logger.warning(
            "%s belongs to another file than %s beside it, so nothing says which encoder the centres are for",
            side_car,
            path.name,
        )
        return None
    return facts


def _parse_facts(plain: Any) -> ClusterFacts:
    if not isinstance(plain, dict) or plain.get("format") != _FORMAT:
        raise ValueError(f"no side-car of clusters in format {_FORMAT}")
    kinds = {"dim": int, "seed": int, "method": str, "sha256": str, "speakers": dict}
    for name, kind in kinds.items():
        if type(plain.get(name)) is not kind:
            raise ValueError(f'no "{name}"')
    encoder = plain.get("encoder")
    if encoder is not None and type(encoder) is not str:
        raise ValueError('no "encoder"')
    try:
        speakers = {name: SpeakerFacts(**facts) for name, facts in plain["speakers"].items()}
    except TypeError as error:
        raise ValueError(f"odd speakers: {error}") from error
    return ClusterFacts(
        encoder, plain["dim"], plain["seed"], plain["method"], speakers, plain["sha256"]
    )


def read_centres(path: Path) -> dict[str, Tensor]:
    """Read the centres of all speakers, ours or the original's.

    Args:
        path: the file.

    Returns:
        Speaker name -> (k, U) float32 on the CPU, all of one width.

    Raises:
        MissingFileError: no such file.
        CheckpointError: damaged, refused, or no file of centres; names the speaker.
    """
    content = load_checkpoint(path)
    if not any(isinstance(entry, Mapping) and _CENTRES in entry for entry in content.values()):
        kind = "a checkpoint of a voice" if "model" in content else "something else"
        raise CheckpointError(
            f"{path}: holds no k-means centres but {kind}; give a file of  svc train-cluster"
        )
    centres = {}
    for name, entry in content.items():
        try:
            if type(name) is not str:
                raise ValueError("its name is no text")
            found = entry.get(_CENTRES) if isinstance(entry, Mapping) else None
            centres[name] = _check_centres(found)
        except ValueError as error:
            raise CheckpointError(
                f'{path}: the centres of the speaker "{printable(str(name))}" are of no use: {error}; {_AGAIN}'
            ) from error
    widths = {tensor.shape[1] for tensor in centres.values()}
    if len(widths) > 1:
        raise CheckpointError(
            f"{path}: its speakers have centres of several widths ({listing(widths)}); {_AGAIN}"
        )
    return centres


def _check_centres(found: Any) -> Tensor:
    """Return centres as float32 (k, U). Raises ValueError."""
    if isinstance(found, Tensor):
        found = found.detach().float().numpy()
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        raise ValueError("no array of float numbers")
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"the shape is {found.shape}, not (centres, width)")
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused
        small = np.ascontiguousarray(found, dtype=np.float32)
    if not np.isfinite(small).all():
        raise ValueError("some numbers are not finite")
    return torch.from_numpy(small)


def listing(names: Iterable[object]) -> str:
    """Return names of a file, sorted, as words of a message."""
    ordered = sorted(map(str, names))
    shown = ", ".join(map(printable, ordered[:_MAX_NAMES]))
    return shown + (f" and {len(ordered) - _MAX_NAMES} more" if len(ordered) > _MAX_NAMES else "")
