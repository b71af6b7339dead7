"""What a retriever is, and which of the two a file holds: k-means centres or an index of frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from svc.errors import CheckpointError, MissingFileError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ZIP_START = b"PK\x03\x04"
_STREAM_NUMBER = (0x1950A86A20F9469CFC6C).to_bytes(
    10, "little"
)  # torch's, in its container of before 2020
_START = 32  # bytes that tell one kind from another


class UnitRetriever(Protocol):
    """Finds the units of a voice that are nearest to given ones."""

    dim: int
    """Width U of the units."""

    @property
    def speakers(self) -> frozenset[str] | frozenset[int]:
        """Voices it knows: names (k-means) or ids (index)."""
        ...

    def match(self, units: Tensor, name: str, speaker_id: int) -> Tensor:
        """Return the match of every frame.

        Args:
            units: (N, U) float32, as the encoder gives them, before they are stretched to frames.
            name: of the target voice, which k-means centres go by.
            speaker_id: of the target voice, which an index goes by.

        Returns:
            (N, U), on the device of `units`.

        Raises:
            ConfigError: the voice is not in the file; lists those that are.
        """
        ...


def is_cluster_file(path: Path) -> bool:
    """Return whether a file is torch's, as files of k-means centres are and those of an index never.

    Raises:
        MissingFileError: no such file or folder.
        CheckpointError: it cannot be read.
    """
    if path.is_dir():
        return False
    try:
        with path.open("rb") as stream:
            start = stream.read(_START)
    except FileNotFoundError:
        raise MissingFileError(
            f"{path} is not there; make it with  svc train-cluster  or  svc train-index"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return start.startswith(_ZIP_START) or _STREAM_NUMBER in start


def load_retriever(
    path: str | Path,
    *,
    dim: int,
    device: torch.device | str,
    encoder: str | None,
    k: int = 8,
    nprobe: int | None = None,
) -> UnitRetriever:
    """Load k-means centres or a retrieval index; which of them the content says, not the name.

    Args:
        path: ``kmeans_10000.pt``, the folder of an index, or ``feature_and_index.pkl``.
        dim: width U of the voice's units.
        device: where k-means distances are computed.
        encoder: id of the voice's content encoder, compared with what the side-car says; None: not compared.
        k: neighbours of an index that are averaged.
        nprobe: lists of an index that are searched; None: as the file says.

    Returns:
        The retriever.

    Raises:
        MissingFileError: nothing is there.
        CheckpointError: damaged, refused, or neither of the two.
        ConfigError: made of other units: another width, or another encoder.
    """
    file = Path(path)
    if is_cluster_file(file):
        from svc.retrieval.kmeans import load_clusters

        return load_clusters(file, dim=dim, device=device, encoder=encoder)
    from svc.retrieval.index import load_index

    retriever: UnitRetriever = load_index(
        file, dim=dim, device=device, encoder=encoder, k=k, nprobe=nprobe
    )
    return retriever
