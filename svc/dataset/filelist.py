"""Which recordings belong to which speaker, which of them are for validation, and the text files
that say so.

so-vits-svc 4.1 layout, spec_core 6.1 and 6.3: one folder per speaker, one path per line in UTF-8.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from svc.atomic import write_text
from svc.errors import DatasetError, MissingFileError

WAV_ONLY = frozenset({".wav"})


@dataclass(frozen=True)
class Split:
    """Files of all speakers, divided."""

    train: list[Path]
    validation: list[Path]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"the folder {folder} cannot be read: {error.strerror}") from error


def audio_in(folder: Path, suffixes: Collection[str] = WAV_ONLY) -> list[Path]:
    """Return the recordings directly in a folder, sorted by name; suffixes match in any case,
    hidden files do not.
    """
    return [
        entry for entry in _entries(folder) if entry.suffix.lower() in suffixes and entry.is_file()
    ]


def existing_folder(folder: Path) -> Path:
    """Return the folder. Raises DatasetError when it is absent or a file."""
    if not folder.exists():
        raise DatasetError(
            f"the folder {folder} is not there; create it with one sub-folder of recordings per "
            "voice"
        )
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is a file; give the folder that holds one sub-folder per voice"
        )
    return folder


def scan_speakers(root: Path, suffixes: Collection[str] = WAV_ONLY) -> dict[str, list[Path]]:
    """Find the speakers of a dataset: the sub-folders of `root` that hold recordings.

    Args:
        root: folder of the dataset; loose files in it and hidden entries are no speakers (spec_core
            10, D1).
        suffixes: which file names count, lower case with the dot, matched in any case (D10).

    Returns:
        Folder name -> its recordings, both sorted by name. Folders without recordings are left out.

    Raises:
        DatasetError: no such folder, nothing in it, or only loose files; says what to do.
    """
    existing_folder(root)
    folders = [entry for entry in _entries(root) if entry.is_dir()]
    found = {folder.name: audio_in(folder, suffixes) for folder in folders}
    speakers = {name: files for name, files in found.items() if files}
    if speakers:
        return speakers
    kinds = "/".join(sorted(suffix.lstrip(".") for suffix in suffixes))
    loose = audio_in(root, suffixes)
    if loose:
        raise DatasetError(
            f"{root} has {len(loose)} recordings directly in it and no folder of a voice; put them "
            f'into a sub-folder named after the voice, like "{root / "alice" / loose[0].name}"'
        )
    if folders:
        raise DatasetError(
            f"no {kinds} recordings in the {len(folders)} sub-folders of {root}; "
            f'each voice needs its recordings directly in its own folder, like "{root / "alice"}"'
        )
    raise DatasetError(
        f"the folder {root} is empty; put the recordings of each voice into a sub-folder named "
        "after it"
    )


def assign_ids(names: Iterable[str], existing: Mapping[str, int] | None = None) -> dict[str, int]:
    """Number the speakers.

    Args:
        names: speaker folder names.
        existing: ids of an earlier config. When it shares a speaker with `names`, the shared ones
            keep their ids, because a trained embedding belongs to a number, and new speakers take
            the smallest free numbers.

    Returns:
        Name -> id, sorted by name; 0-based, and without holes unless an earlier speaker is gone.
    """
    ordered = sorted(set(names))
    kept = {name: existing[name] for name in ordered if name in existing} if existing else {}
    taken = set(kept.values())
    free = (number for number in itertools.count() if number not in taken)
    return {name: kept[name] if name in kept else next(free) for name in ordered}


def _draw(seed: int, path: Path) -> bytes:
    key = f"{seed}/{path.parent.name}/{path.name}"
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def split(files_by_speaker: Mapping[str, Sequence[Path]], *, n_val: int = 2, seed: int) -> Split:
    """Divide each speaker's files: the first `n_val` of a seeded shuffle are for validation, the
    rest for training.

    The shuffle sorts by a hash of seed and name, so adding or removing one recording moves no other
    one between the two lists. Every speaker has at least one training file (spec_core 10, D2).

    Args:
        files_by_speaker: speaker -> usable recordings.
        n_val: validation files per speaker.
        seed: of the shuffle.

    Returns:
        Both lists, shuffled over all speakers.
    """
    train: list[Path] = []
    validation: list[Path] = []
    for files in files_by_speaker.values():
        order = sorted(files, key=lambda path: _draw(seed, path))
        count = min(n_val, len(order) - 1) if order else 0
        validation += order[:count]
        train += order[count:]
    return Split(
        sorted(train, key=lambda path: _draw(seed + 1, path)),
        sorted(validation, key=lambda path: _draw(seed + 1, path)),
    )


def unlistable(path: Path) -> str | None:
    """Return why a path cannot stand on a line of a UTF-8 list, or None."""
    text = path.as_posix()
    if "\n" in text or "\r" in text:
        return "its name holds a line break; rename it"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    return None


def write_filelist(path: Path, files: Iterable[Path]) -> None:
    """Write one path per line, "/" between folders, in UTF-8 (spec_core 6.3).

    Raises:
        DatasetError: a name that cannot stand on a line.
        OutputError: the list cannot be written.
    """
    lines = []
    for file in files:
        reason = unlistable(file)
        if reason is not None:
            raise DatasetError(f"{str(file)!a}: {reason}")
        lines.append(file.as_posix() + "\n")
    write_text(path, "".join(lines))


def read_filelist(path: Path) -> list[Path]:
    """Read a file list: ours, or one of so-vits-svc, where "|" may separate further fields.

    A line that is the name of a file is taken whole, so names with "|" or blanks at their ends work
    (spec_core 10, D9); otherwise the first field counts.

    Args:
        path: the list.

    Returns:
        The paths in order; blank lines are skipped. Whether the files exist is not checked.

    Raises:
        MissingFileError: no such list.
        DatasetError: not a UTF-8 text file.
    """
    try:
        # No newline translation inside names: only "\n" and "\r\n" end a line.
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise MissingFileError(
            f"the file list {path} is not there; make it with  svc preprocess --stage config"
        ) from None
    except UnicodeDecodeError:
        raise DatasetError(
            f"{path} is not in UTF-8; save it as UTF-8 or make it again with  svc preprocess"
        ) from None
    except OSError as error:
        raise DatasetError(f"the file list {path} cannot be read: {error.strerror}") from error
    files = []
    for line in text.split("\n"):
        whole = line.removesuffix("\r")
        if not whole.strip():
            continue
        files.append(Path(whole) if _is_file(whole) else Path(whole.split("|")[0].strip()))
    return files


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # longer than a file name may be, or with a NUL
        return False
