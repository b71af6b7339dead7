"""What is this file or folder? The one way in: reads a little of it, runs nothing of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from svc.config.bundle import file_sha256
from svc.errors import MissingFileError
from svc.inspection.folders import describe_folder
from svc.inspection.names import misleading
from svc.inspection.published import find_known
from svc.inspection.readers import find
from svc.inspection.report import UNKNOWN, Finding, Match, Report, Safety
from svc.inspection.settings import Settings, find_settings, path_of, quiet_warnings
from svc.safe_pickle import printable

logger = logging.getLogger(__name__)

HASHED = 100_000_000
"""Bytes up to which a file is hashed without being asked to."""


def inspect(path: Path, *, config: Settings | None = None, hash_large: bool = False) -> Report:
    """Say what a file or folder is, what it fits and whether it is safe to load.

    Files are read by svc's own readers, which cannot run anything; tensors are only described.

    Args:
        path: a file or folder.
        config: what weights are compared with; None: a config that lies beside them.
        hash_large: hash files of more than `HASHED` bytes too.

    Returns:
        The report, also of what is damaged, hostile or unknown.

    Raises:
        MissingFileError: there is no such file or folder.
    """
    if path.is_file():
        return _inspect_file(path, config, HASHED if not hash_large else None)
    if not path.is_dir():
        kind = "neither a file nor a folder" if path.exists() else "not there; check the path"
        raise MissingFileError(f"{path} is {kind}")
    return describe_folder(path, lambda file: _inspect_file(file, config, 0))


def _inspect_file(path: Path, config: Settings | None, hashed: int | None) -> Report:
    """Inspect a file; hash it if it has at most `hashed` bytes, None: always."""
    match, sha256, size, notes = None, None, 0, list[str]()
    try:
        size = path.stat().st_size
        with quiet_warnings() as warnings:
            finding = find(path)
            match, more = _compare(finding, path, config)
        notes = [*more, *warnings]
        sha256 = file_sha256(path) if hashed is None or size <= hashed else None
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        finding = Finding(UNKNOWN, "a file that cannot be opened", damage=reason)
    known, hint = find_known(size, sha256)
    notes += [note for note in (hint, misleading(path, finding)) if note is not None]
    safety = finding.safety or Safety(None, "it was not loaded")
    return Report(path, finding, safety, size, sha256, known, match, tuple(dict.fromkeys(notes)))


def _differences(
    compare: Callable[[Settings], list[str] | None], settings: Settings
) -> list[str] | None:
    try:
        return compare(settings)
    except Exception as error:
        # A config may ask for sizes that no net can have, in as many ways as there are layers.
        logger.debug("%s: %s: %s", path_of(settings), type(error).__name__, error)
        return [f"the config describes no net that can be made ({type(error).__name__})"]


def _compare(
    finding: Finding, path: Path, config: Settings | None
) -> tuple[Match | None, list[str]]:
    """Compare with the config given, or with those beside the file: one that fits counts."""
    if finding.compare is None or finding.damage is not None:
        return None, []
    beside = config is None
    given = [config] if config else find_settings(path.parent, finding.beside, apart_from=path)
    matches = []
    for settings in given:
        differences = _differences(finding.compare, settings)
        if differences is not None:
            matches.append(Match(path_of(settings), tuple(map(printable, differences))))
    if not matches:
        if beside or config is None:
            return None, []
        return None, [f"{path_of(config)} is no config for a {finding.kind}: not compared"]
    return next((match for match in matches if match.fits), matches[0]), []
