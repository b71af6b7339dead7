"""Errors a user can act on: one line that says what, where and what to do next.

Everything that goes wrong because of a file, a flag or a machine is an `SvcError`; the command line prints it as one
line and exits with 2. A bare `ValueError` or `TypeError` is a mistake in the calling code and keeps its traceback.
"""

from __future__ import annotations

import errno
import importlib
from types import ModuleType


class SvcError(Exception):
    """Base of all errors that are reported to the user as one line."""

    exit_code = 2
    """What the command ends with."""


class ConfigError(SvcError):
    """A config file or an option is missing something, or holds the wrong type or value."""


class AudioError(SvcError):
    """An audio file cannot be read, or what it holds cannot be used."""


class CheckpointError(SvcError):
    """A weight file is truncated, refused, or does not fit the model it is loaded into."""


class DatasetError(SvcError):
    """A dataset folder, a file list or a feature file is not usable."""


class CurveError(SvcError):
    """A pitch curve (CSV or MIDI) cannot be read, or does not fit the song it is for."""


class MissingFileError(SvcError):
    """A file that the user has to provide is not there."""


class MissingDependencyError(SvcError):
    """An optional package is needed and not installed."""


class OutputError(SvcError):
    """A result cannot be written: read-only folder, full disk, a folder in the way."""

    @property
    def concerns_all(self) -> bool:
        """Whether the next result cannot be written either: the disk is full or takes nothing.

        What the system says of a name (a folder of that name, no permission, too long) concerns that name alone.
        Where it has said nothing, the space was counted before.
        """
        cause: BaseException | None = self
        while cause is not None:
            if isinstance(cause, OSError):
                return cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
            cause = cause.__cause__
        return True


class ExportError(SvcError):
    """An exported graph does not compute what the net does; it has been removed."""

    exit_code = 3


class DeviceError(SvcError):
    """The device asked for does not exist on this machine."""


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: dotted module name, e.g. ``"onnxruntime"``.
        extra: name of the extra of this project that installs it.

    Returns:
        The imported module.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f'the Python package "{module}" is not installed: run  pip install "svc[{extra}]"'
        ) from error
