"""Retrieval: units replaced by a blend of the most similar ones of the voice's own data (spec_cluster_index 5).

For each frame q the lists with the nearest centroids are searched for the k vectors v_i at the least squared distances
d_i = ‖q - v_i‖²; the match is Σ w_i v_i with w_i = (1/d_i)², normalised to sum 1. d is a squared distance, so weights
fall with the fourth power of the distance.

The search and the blend are numpy and faiss alone: a process without torch can use them. Vectors are in memory once, in
faiss's own lists.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svc.errors import CheckpointError, ConfigError
from svc.retrieval.index_files import (
    FOLDER_NAME,
    SIDE_CAR_NAME,
    StoredIndex,
    import_faiss,
    is_native,
    map_file,
    open_folder,
)
from svc.retrieval.legacy_index import open_legacy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

logger = logging.getLogger(__name__)

NEIGHBOURS = 8  # k of the original
_BLOCK = 1 << 22  # numbers of found vectors in memory at a time: 16 MB

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Neighbours:
    """What a search finds for n frames, nearest first."""

    distances: FloatArray  # (n, k) squared distances; the largest float32 where there was none left
    ids: NDArray[np.int64]  # (n, k) row numbers; -1 where there was none left
    vectors: FloatArray  # (n, k, U); zeros where there was none left


class FeatureIndex:
    """The retrieval indexes of a voice's speakers.

    Args:
        stored: the index of each speaker id; all of the same width. One is read into memory when its speaker first
            sings.
        where: file or folder, for messages.
        names: what the side-car calls the ids; None where there is no side-car.
        k: neighbours that are blended.
        nprobe: lists searched per frame; None: as stored in the file, 1 in those of the original.

    Raises:
        ConfigError: `k` or `nprobe` below 1.
    """

    def __init__(
        self,
        stored: Mapping[int, StoredIndex],
        *,
        where: str,
        names: Mapping[str, int] | None = None,
        k: int = NEIGHBOURS,
        nprobe: int | None = None,
    ) -> None:
        _check_counts(k, nprobe)
        self.speakers = frozenset(stored)
        (self.dim,) = {entry.facts.dim for entry in stored.values()}
        self.k, self.nprobe = k, nprobe
        self._where, self._names = where, dict(names or {})
        self.facts = {number: entry.facts for number, entry in stored.items()}
        self._unread = dict(stored)
        self._indexes: dict[int, Any] = {}

    def match(self, units: Tensor, name: str, speaker_id: int) -> Tensor:
        """Return the blend for each frame, on the units' device; see `match_numpy`."""
        import torch

        # Blended on the CPU too: the found vectors are k times as much to send as their sum.
        matched = self.match_numpy(units.detach().float().cpu().numpy(), name, speaker_id)
        return torch.from_numpy(matched).to(units.device)

    def match_numpy(self, units: FloatArray, name: str, speaker_id: int) -> FloatArray:
        """Blend what is most like each frame in the data of a speaker.

        Args:
            units: float32 (N, U), at the rate of the encoder: searched before it is stretched to the frames of the
                voice, which gives the same for "left" and "nearest" stretching and is the less work.
            name: of the speaker; compared with the side-car where there is one.
            speaker_id: its number in the config.

        Returns:
            float32 (N, U). A frame for which there is nothing in the lists searched stays as it is.

        Raises:
            ConfigError: the index has not this speaker, or by another number.
            CheckpointError: faiss cannot read its file.
        """
        self._check_speaker(name, speaker_id)
        units = np.ascontiguousarray(units, dtype=np.float32)
        self._check_units(units)
        matched = np.empty_like(units)
        step = max(1, _BLOCK // (self._found(speaker_id, self.k) * self.dim))
        for start in range(0, len(units), step):
            part = slice(start, start + step)
            matched[part] = blend(self.search(units[part], speaker_id), units[part])
        return matched

    def search(
        self,
        units: FloatArray,
        speaker_id: int,
        k: int | None = None,
        nprobe: int | None = None,
    ) -> Neighbours:
        """Find the nearest vectors of a speaker's data.

        Args:
            units: float32 (n, U); n · k vectors are returned at once.
            speaker_id: one of `speakers`.
            k: neighbours; None: those of the constructor. Never more than there are rows.
            nprobe: lists searched; None: those of the constructor or the file.

        Returns:
            The neighbours of each frame.

        Raises:
            ConfigError: an unknown speaker, or a count below 1.
            CheckpointError: faiss cannot read its file.
        """
        k = self.k if k is None else k
        nprobe = self.nprobe if nprobe is None else nprobe
        _check_counts(k, nprobe)
        self._check_units(units)
        index, facts = self._index(speaker_id), self.facts[speaker_id]
        options = None
        if facts.n_lists:
            lists = min(nprobe or facts.nprobe, facts.n_lists)
            options = import_faiss().SearchParametersIVF(nprobe=lists)
        distances, ids, vectors = index.search_and_reconstruct(
            units, self._found(speaker_id, k), params=options
        )
        vectors[ids < 0] = 0  # faiss leaves NaN there
        return Neighbours(distances, ids, vectors)

    def _found(self, speaker_id: int, k: int) -> int:
        return min(k, self.facts[speaker_id].rows)

    def _index(self, speaker_id: int) -> Any:
        if speaker_id not in self.speakers:
            raise self._unknown(f"the id {speaker_id}")
        if speaker_id in self._unread:
            self._indexes[speaker_id] = self._unread[speaker_id].read()
            del self._unread[speaker_id]  # lets the file go
        return self._indexes[speaker_id]

    def _check_units(self, units: FloatArray) -> None:
        if units.ndim != 2 or units.shape[1] != self.dim:
            raise ValueError(f"units are (N, {self.dim}), found {units.shape}")

    def _check_speaker(self, name: str, speaker_id: int) -> None:
        number = self._names.get(name, speaker_id)
        if number != speaker_id:
            raise ConfigError(
                f'{self._where} has "{name}" as number {number}, the voice as {speaker_id}: it was built '
                "for another voice; build it with this voice's config:  svc train-index -c CONFIG"
            )
        if speaker_id not in self.speakers:
            raise self._unknown(f'the speaker "{name}" (id {speaker_id})')

    def _unknown(self, what: str) -> ConfigError:
        names = {number: name for name, number in self._names.items()}
        known = ", ".join(
            f"{number} ({names[number]})" if number in names else str(number)
            for number in sorted(self.speakers)
        )
        return ConfigError(
            f"{self._where} has nothing of {what}, it has the ids {known}; run  svc train-index  with "
            "this voice's config"
        )


def _check_counts(k: int, nprobe: int | None) -> None:
    for flag, value in (("k", k), ("nprobe", nprobe)):
        if value is not None and value < 1:
            raise ConfigError(f"--index_{flag} is {value}, and must be 1 or more")


def blend(found: Neighbours, units: FloatArray) -> FloatArray:
    """Return the weighted sums of what was found, (n, U) (spec_cluster_index 5).

    Where the original divides by zero: of vectors equal to the frame the mean is taken, and a frame for which nothing
    was found stays as it is.

    Args:
        found: of n frames.
        units: the frames themselves, float32 (n, U).

    Returns:
        float32 (n, U).
    """
    distances = np.where(found.ids >= 0, found.distances, np.inf).astype(np.float64)
    nearest = distances.min(axis=1, keepdims=True)
    # (d_min / d)² instead of (1 / d)²: the same after normalising, and no d is too small or too large for it
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.where(nearest > 0, nearest / distances, distances == 0) ** 2
    weights[~np.isfinite(weights)] = 0  # nothing found: infinity by infinity
    total = weights.sum(axis=1, keepdims=True)
    weights = (weights / np.maximum(total, 1)).astype(np.float32)  # the nearest alone weighs 1
    mixed: FloatArray = (weights[:, None] @ found.vectors)[:, 0]
    return np.where(total > 0, mixed, units)


def load_index(
    path: str | Path,
    *,
    dim: int,
    device: torch.device | str | None = None,
    encoder: str | None = None,
    k: int = NEIGHBOURS,
    nprobe: int | None = None,
) -> FeatureIndex:
    """Load a retrieval index, ours or the original's.

    Args:
        path: the folder that `svc train-index` writes, the side-car in it, or a `feature_and_index.pkl` of
            so-vits-svc 4.1.
        dim: U, width of the voice's units.
        device: of no effect; faiss searches on the CPU and matches go to the device of the units.
        encoder: id of the voice's speech encoder, compared with the side-car; None: not compared. The original's file
            does not say which encoder it is for.
        k: neighbours that are blended.
        nprobe: lists searched per frame; None: as stored.

    Returns:
        The index; every file of it has been checked.

    Raises:
        MissingFileError: a file is not there.
        CheckpointError: damaged, refused, or no index.
        ConfigError: it is for units of another width or encoder; `k` or `nprobe` below 1.
    """
    file = Path(path)
    names: dict[str, int] | None = None
    if file.is_dir() or file.name == SIDE_CAR_NAME:
        record, stored = open_folder(file if file.is_dir() else file.parent)
        names = {name: entry.id for name, entry in record.speakers.items()}
        if encoder is not None and record.encoder != encoder:
            raise ConfigError(
                f'{file} holds units of "{record.encoder}", the voice uses "{encoder}"; build it with '
                "this voice's config:  svc train-index -c CONFIG"
            )
    elif is_native(bytes(map_file(file)[:4])):
        raise CheckpointError(
            f"{file} is the index of one speaker, and does not say whose; give the folder that  svc "
            f"train-index  wrote ({FOLDER_NAME}, with {SIDE_CAR_NAME})"
        )
    else:
        stored = open_legacy(file)
        logger.info("%s: of so-vits-svc; which encoder it is for is not recorded", file)
    for entry in stored.values():
        if entry.facts.dim != dim:
            raise ConfigError(
                f"{entry.where} holds units {entry.facts.dim} wide, those of the voice are {dim} wide: "
                "it is for another speech encoder; build it with this voice's config:  svc "
                "train-index -c CONFIG"
            )
    if not stored:
        raise CheckpointError(f"{file} has no speakers; build it again with  svc train-index")
    return FeatureIndex(stored, where=str(file), names=names, k=k, nprobe=nprobe)
