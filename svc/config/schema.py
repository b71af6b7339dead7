"""Typed sections from parsed JSON or YAML: the one reader behind every config file.

A section is a frozen dataclass; a key without a default is required. Unknown keys are kept for the round trip and
reported once with the nearest known name, because a misspelt key that is silently ignored costs a training run.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from svc.errors import ConfigError, MissingFileError

logger = logging.getLogger(__name__)

Section = TypeVar("Section")

_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
}


def type_name(annotation: Any) -> str:
    """Return how an error message names a type: ``tuple[int, ...]`` -> "a list of a whole number"."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(option) for option in typing.get_args(annotation))
    if origin is tuple:
        return f"a list of {type_name(typing.get_args(annotation)[0])}"
    if origin is typing.Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(annotation))
    return _NAMES.get(annotation, str(annotation))


def coerce(value: Any, annotation: Any) -> Any:
    """Return `value` as the annotated type, or raise TypeError. A whole number may stand for a float."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return coerce(value, option)
            except TypeError:
                continue
        raise TypeError
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(coerce(item, arguments[0]) for item in value)
    if origin is typing.Literal and value in arguments:
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is float and is_number:
        return float(value)
    if annotation is int and is_number and float(value).is_integer():
        return int(value)
    if annotation in (str, bool, type(None)) and isinstance(value, annotation):
        return value
    raise TypeError


def nearest(name: str, known: typing.Iterable[str]) -> str | None:
    """Return the known name most like `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def _template_of(where: str) -> str:
    """Name of the template in which a config file's missing key is found."""
    return "diffusion_template.yaml" if where.endswith((".yaml", ".yml")) else "template.json"


def read_section(
    cls: type[Section], raw: Any, *, where: str, name: str
) -> tuple[Section, dict[str, Any]]:
    """Build one section.

    Args:
        cls: a frozen dataclass.
        raw: the parsed mapping.
        where: the file, for messages.
        name: the section's key in the file, "" for the top level.

    Returns:
        The section and the keys it does not know.

    Raises:
        ConfigError: not a mapping, a required key is missing, a value has the wrong type or is out of range.
    """
    prefix = f"{name}." if name else ""
    if not isinstance(raw, Mapping):
        raise ConfigError(f'{where}: "{name}" must be an object of keys and values, found {raw!r}')
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        expected = type_name(hints[field.name])
        if field.name not in raw:
            if field.default is dataclasses.MISSING:
                raise ConfigError(
                    f'{where}: the key "{prefix}{field.name}" is missing (expected {expected}); '
                    f"copy it from configs/{_template_of(where)} or run  svc preprocess --stage config"
                )
            continue
        try:
            values[field.name] = coerce(raw[field.name], hints[field.name])
        except TypeError:
            found = raw[field.name]
            raise ConfigError(
                f'{where}: "{prefix}{field.name}" must be {expected}, found {found!r}'
            ) from None
    try:
        section = cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    unknown = {str(key): value for key, value in raw.items() if key not in hints}
    return section, unknown


def warn_unknown(
    where: str, unknown: Mapping[str, Mapping[str, Any]], known: Mapping[str, set[str]]
) -> None:
    """Log one warning that names every unknown key of a file and the nearest known one."""
    parts = []
    for section, keys in unknown.items():
        for key in keys:
            near = nearest(key, known.get(section, set()))
            full = f"{section}.{key}" if section else key
            parts.append(f'"{full}"' + (f' (did you mean "{near}"?)' if near else ""))
    if parts:
        logger.warning("%s: ignoring unknown keys: %s", where, ", ".join(parts))


def write_section(section: Any) -> dict[str, Any]:
    """Return a section as plain JSON-ready data, every key explicit, our own unset options left out."""
    plain = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if field.metadata.get("omit_default") and value == field.default:
            continue
        plain[field.name] = json.loads(json.dumps(value))
    return plain


def extension(default: Any) -> Any:
    """Declare a key of ours: optional, and not written while it has its default (files stay the original's)."""
    return dataclasses.field(default=default, metadata={"omit_default": True})


def read_spk(raw: Any, where: str) -> dict[str, int]:
    """Check the speaker table: name -> id, ids unique and not negative."""
    if not isinstance(raw, Mapping) or not raw:
        raise ConfigError(
            f'{where}: "spk" must be an object of speaker names and ids, found {raw!r}'
        )
    for name, number in raw.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ConfigError(
                f'{where}: "spk.{name}" must be a whole number from 0 up, found {number!r}'
            )
    if len(set(raw.values())) != len(raw):
        raise ConfigError(f'{where}: "spk" gives two speakers the same id: {dict(raw)!r}')
    return {str(name): number for name, number in raw.items()}


def read_text(path: Path, what: str) -> str:
    """Read a UTF-8 text file. Raises MissingFileError or ConfigError naming the file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingFileError(
            f"{what} {path} is not there; give its path, or make one with  svc preprocess"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8; is this really a {what}?") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
