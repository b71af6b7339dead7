"""The folder of a retrieval index: one native faiss file per speaker, and a side-car that says what they are.

    feature_index/Index-<id>.index     faiss's own format; so named, MoeVoiceStudio takes them as they are
    feature_index/feature_index.json   the side-car, written last: encoder and width; per speaker its id, rows,
                                       lists, seed and the SHA-256 of its file

The pickle of so-vits-svc 4.1 is in `svc.retrieval.legacy_index`. Neither needs torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from svc.atomic import atomic_path, write_text
from svc.errors import CheckpointError, MissingDependencyError, MissingFileError
from svc.retrieval.index_layout import FOURCCS, IndexFacts, check_layout

FOLDER_NAME = "feature_index"
SIDE_CAR_NAME = "feature_index.json"
_FORMAT = "svc-feature-index"
_VERSION = 1
_AGAIN = "build it again with  svc train-index"


def import_faiss() -> ModuleType:
    """Return faiss. Raises MissingDependencyError."""
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            "a retrieval index needs the Python package faiss: run  pip install faiss-cpu"
        ) from error
    module: ModuleType = faiss
    return module


@dataclass(frozen=True)
class StoredIndex:
    """The index of one speaker where it lies, checked and not yet read into faiss."""

    where: str  # its file, and which speaker where a file has several; for messages
    data: memoryview  # plain bytes, as a rule mapped from the file
    facts: IndexFacts

    @classmethod
    def of(cls, where: str, data: memoryview) -> StoredIndex:
        """Check the bytes of an index. Raises CheckpointError."""
        try:
            return cls(where, data, check_layout(data))
        except ValueError as error:
            raise CheckpointError(f"{where}: not a readable index: {error}; {_AGAIN}") from error

    def read(self) -> Any:
        """Return the faiss index; its memory is all that is taken. Raises CheckpointError."""
        faiss = import_faiss()
        at = 0

        def block(size: int) -> bytes:
            nonlocal at
            at += size
            return bytes(self.data[at - size : at])

        try:
            return faiss.read_index(faiss.PyCallbackIOReader(block))
        except RuntimeError as error:  # faiss's own; the layout it refuses is one that it wrote
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{self.where}: faiss refuses it: {reason}; {_AGAIN}") from error


def map_file(path: Path) -> memoryview:
    """Return the bytes of a file, mapped. Raises MissingFileError or CheckpointError."""
    try:
        with path.open("rb") as stream:
            # Never closed by hand: the view keeps the mapping alive.
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise MissingFileError(
            f"the retrieval index {path} is not there; make one with  svc train-index"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise CheckpointError(f"{path}: cannot be read: {error}; {_AGAIN}") from error


def is_native(start: bytes) -> bool:
    """Return whether a file that begins so is one of faiss's own that is read here."""
    return start[:4] in FOURCCS


# ------------------------------------------------------------------------------------ the side-car


@dataclass(frozen=True)
class SpeakerRecord:
    """What the side-car says of one speaker."""

    id: int
    file: str  # name in the folder
    rows: int  # vectors in the index
    source_rows: int  # frames of the data set they come from
    reduced: bool  # the vectors are k-means centres of those frames
    n_ivf: int  # lists; 0: a flat index
    nprobe: int  # lists searched per frame, as stored in the file
    seed: int
    sha256: str  # of the file


@dataclass(frozen=True)
class IndexRecord:
    """What the side-car says."""

    encoder: str  # id of the speech encoder
    dim: int  # U, width of the units
    svc_version: str
    speakers: dict[str, SpeakerRecord]  # by name


def write_record(folder: Path, record: IndexRecord) -> None:
    """Write the side-car atomically. Raises OutputError."""
    content = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(record)}
    write_text(folder / SIDE_CAR_NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_record(folder: Path) -> IndexRecord:
    """Read the side-car of a folder. Raises MissingFileError or CheckpointError."""
    path = folder / SIDE_CAR_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.get("format") != _FORMAT:
            raise ValueError("it is the side-car of something else")
        if raw.get("version") != _VERSION:
            raise ValueError(f"its version is {raw.get('version')!r}, this svc knows {_VERSION}")
        speakers = {
            str(name): _section(SpeakerRecord, entry) for name, entry in raw["speakers"].items()
        }
        record: IndexRecord = _section(IndexRecord, {**raw, "speakers": speakers})
        _check(record)
    except FileNotFoundError:
        raise MissingFileError(
            f"{folder} has no {SIDE_CAR_NAME}, which says what the index files are; give the folder "
            f"that  svc train-index  wrote ({FOLDER_NAME})"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: damaged: {reason}; {_AGAIN}") from error
    return record


def _section(cls: type[Any], raw: Mapping[str, Any]) -> Any:
    """Return a dataclass of the keys it knows; wrong types are refused."""
    kinds = {"int": int, "str": str, "bool": bool, "dict[str, SpeakerRecord]": dict}
    values = {}
    for field in dataclasses.fields(cls):
        value = raw[field.name]
        if type(value) is not kinds[str(field.type)]:
            raise ValueError(f'"{field.name}" is {value!r}')
        values[field.name] = value
    return cls(**values)


def _check(record: IndexRecord) -> None:
    if len({entry.id for entry in record.speakers.values()}) < len(record.speakers):
        raise ValueError("two speakers have the same id")
    for name, entry in record.speakers.items():
        if entry.id < 0 or Path(entry.file).name != entry.file or "\\" in entry.file:
            raise ValueError(f'"{name}" has the id {entry.id} and the file {entry.file!r}')


# --------------------------------------------------------------------------------- the index files


def index_name(speaker_id: int) -> str:
    """Return the file name of a speaker's index."""
    return f"Index-{speaker_id}.index"


def write_index(index: Any, path: Path) -> str:
    """Write a faiss index atomically, without a second copy in memory.

    Returns:
        The SHA-256 of the file, hexadecimal.

    Raises:
        OutputError: full disk, read-only folder.
    """
    faiss = import_faiss()
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, temporary.open("wb") as stream:

        def block(data: bytes) -> int:
            digest.update(data)
            return stream.write(data)

        faiss.write_index(index, faiss.PyCallbackIOWriter(block))
    return digest.hexdigest()


def open_folder(folder: Path) -> tuple[IndexRecord, dict[int, StoredIndex]]:
    """Check a folder of index files against its side-car.

    Args:
        folder: what `svc train-index` wrote.

    Returns:
        The side-car, and the index of each speaker id, mapped.

    Raises:
        MissingFileError: no side-car, or a file that it names is not there.
        CheckpointError: damaged, or a file that is not the one the side-car speaks of.
    """
    record = read_record(folder)
    return record, {entry.id: _open(folder, record, entry) for entry in record.speakers.values()}


def _open(folder: Path, record: IndexRecord, entry: SpeakerRecord) -> StoredIndex:
    path = folder / entry.file
    data = map_file(path)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise CheckpointError(
            f"{path}: not the file that {SIDE_CAR_NAME} beside it speaks of, or damaged: its SHA-256 "
            f"differs; {_AGAIN}"
        )
    stored = StoredIndex.of(str(path), data)
    facts = stored.facts
    if (facts.dim, facts.rows, facts.n_lists) != (record.dim, entry.rows, entry.n_ivf):
        raise CheckpointError(
            f"{path}: {facts.rows} rows of {facts.dim} in {facts.n_lists} lists, {SIDE_CAR_NAME} says "
            f"{entry.rows} of {record.dim} in {entry.n_ivf}; {_AGAIN}"
        )
    return stored
