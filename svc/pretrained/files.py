"""Finding weight files, telling whether one is what was published, and the message when one that is
needed is not there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from svc.errors import MissingFileError
from svc.pretrained.table import PRETRAINED, WHISPER_TINY_ASSET, PretrainedFile

PRETRAIN_DIR = Path("pretrain")

_BLOCK = 1 << 20  # bytes hashed at a time
# torch.hub's habit: the file name carries the first digits of the content's SHA-256.
_DIGITS_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")


def verify(path: str | Path, file: PretrainedFile) -> str | None:
    """Compare a file with what was published; its content is read once, a block at a time.

    A file whose SHA-256 begins with the digits in its own name is taken as published as well.

    Args:
        path: the file on disk.
        file: what it should be; something must be published of it.

    Returns:
        None when it is one of the published forms, else how it differs, without a final stop.

    Raises:
        MissingFileError: there is no such file, or it cannot be read.
    """
    if not file.published:
        raise ValueError(f"nothing is published about {file.name}")
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path} is not there; check the path")
    size = path.stat().st_size
    alike = [form.sha256 for form in file.published if form.size == size]
    digits = _DIGITS_IN_NAME.search(path.name)
    if not alike and digits is None:
        forms = (f"{form.size:,} bytes{form.note and f' ({form.note})'}" for form in file.published)
        return f"it has {size:,} bytes, {file.name} was published with {' or '.join(forms)}"
    try:
        found = _sha256(path)
    except OSError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror or error}") from error
    if found in alike or (digits is not None and found.startswith(digits[1])):
        return None
    return f"its SHA-256 is {found}, which is not that of {file.name} as published"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def whisper_tiny_asset() -> Path:
    """Path of the bundled Whisper tiny.en encoder (package data).

    Raises:
        MissingFileError: the installation lacks it.
    """
    path = Path(__file__).parents[1] / "speech" / "assets" / WHISPER_TINY_ASSET.name
    if not path.is_file():
        raise MissingFileError(
            f"the bundled Whisper tiny encoder {path} is missing: the installation is incomplete,"
            " install svc again, or put OpenAI's tiny.pt into the pretrain folder"
        )
    return path


def torchfcpe_asset() -> Path | None:
    """Path of the FCPE weights inside the installed torchfcpe package, None where it is not
    installed.

    The package is located and never imported: its import needs torchaudio.
    """
    spec = importlib.util.find_spec("torchfcpe")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "assets" / "fcpe_c_v001.pt"
        if path.is_file():
            return path
    return None


def describe_missing(name: str, pretrain_dir: str | Path = PRETRAIN_DIR) -> str:
    """One line: which file is missing, what it is, where it goes and what works without it.

    Args:
        name: a key of `PRETRAINED`.
        pretrain_dir: the folder it was looked for in.
    """
    file = PRETRAINED[name]
    details = ", ".join(part for part in (file.what, file.size_text, f"from {file.source}") if part)
    return (
        f"{Path(pretrain_dir) / name} is missing ({details}), needed by {' and '.join(file.ids)}:"
        f" put it there under this name, or do without it: {file.instead}"
    )


def find_pretrained(name: str, pretrain_dir: str | Path = PRETRAIN_DIR) -> Path:
    """Path of a known weight file.

    Args:
        name: a key of `PRETRAINED`, e.g. ``"medium.pt"``.
        pretrain_dir: the folder that users put weight files into.

    Returns:
        The path of the existing file.

    Raises:
        MissingFileError: it is not there; the message says what it is, where it goes and what works
            without it.
        ValueError: `name` is not a known file.
    """
    if name not in PRETRAINED:
        raise ValueError(f"{name!r} is not in the table of pretrained files")
    path = Path(pretrain_dir) / name
    if not path.is_file():
        raise MissingFileError(describe_missing(name, pretrain_dir))
    return path
