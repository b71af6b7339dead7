"""Is a file one that somebody has published? The table is that of `svc.pretrained`."""

from __future__ import annotations

from svc.inspection.report import Known
from svc.pretrained import PRETRAINED, WHISPER_TINY_ASSET, PretrainedFile

_FILES = (*PRETRAINED.values(), WHISPER_TINY_ASSET)


def find_known(size: int, sha256: str | None) -> tuple[Known | None, str | None]:
    """Look a file up by its size and, where it is known, its checksum.

    Args:
        size: bytes.
        sha256: of its content, hexadecimal; None: it was not computed.

    Returns:
        The published file, and a note; each None where there is nothing to say.
    """
    alike = [(file, form) for file in _FILES for form in file.published if form.size == size]
    for file, form in alike:
        if form.sha256 == sha256:
            return _known(file, form.note, checked=True), None
    if not alike:
        return None, None
    file, form = alike[0]
    if sha256 is None:
        note = f"it has the size of {file.name} as published; --hash compares its content too"
        return _known(file, form.note, checked=False), note
    return None, f"it has the size of {file.name} as published, and another content"


def _known(file: PretrainedFile, form: str, *, checked: bool) -> Known:
    what = f"{file.what} ({form})" if form else file.what
    return Known(file.name, what, file.source, file.licence, checked)
