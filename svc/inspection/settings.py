"""Config files by their content: which one it is, and a config to compare others with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from svc.config import DiffusionConfig, SvcConfig, load_diffusion_config, parse_config
from svc.errors import ConfigError, MissingFileError, SvcError

_MAX_BYTES = 16 << 20  # of a text that is parsed
_VOCODER_KEYS = ("upsample_rates", "upsample_kernel_sizes", "num_mels", "hop_size", "sampling_rate")


@dataclass(frozen=True)
class VocoderSettings:
    """The `config.json` beside a mel vocoder, as far as a weight file can be compared with it
    (spec_vocoder 1).
    """

    raw: Mapping[str, Any]
    path: Path


Settings = SvcConfig | DiffusionConfig | VocoderSettings


@dataclass(frozen=True)
class Text:
    """A parsed text file."""

    syntax: str
    """"JSON" or "YAML"."""
    value: Any


def parse_text(path: Path) -> Text | None:
    """Parse a JSON or YAML file by its content; None where it is another text.

    Raises:
        ConfigError: it begins like JSON and is not, or is too long.
    """
    if path.stat().st_size > _MAX_BYTES:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    start = text.lstrip()[:1]
    if start in ("{", "["):
        try:
            return Text("JSON", json.loads(text))
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"not valid JSON: {error}") from None
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return Text("YAML", value) if isinstance(value, dict) else None


def kind_of_config(value: Any) -> str | None:
    """Return which config a parsed text is: "config", "diffusion config", "vocoder config"; or
    None.
    """
    if not isinstance(value, Mapping):
        return None
    keys = set(map(str, value))
    if {"model", "data"} <= keys and keys & {"vocoder", "infer", "env"}:
        return "diffusion config"
    if {"train", "data", "model"} <= keys or {"data", "model", "spk"} <= keys:
        return "config"
    return "vocoder config" if keys.issuperset(_VOCODER_KEYS) else None


def read_config(path: Path, value: Any) -> Settings:
    """Check a config of a known kind.

    Args:
        path: where it was read from.
        value: its parsed content.

    Raises:
        ConfigError: a key is missing or has a wrong value; ValueError: of no known kind.
    """
    kind = kind_of_config(value)
    if kind == "config":
        return parse_config(value, where=str(path), path=path)
    if kind == "diffusion config":
        return load_diffusion_config(path)
    if kind == "vocoder config":
        return VocoderSettings(value, path)
    raise ValueError("no config of a known kind")


def load_settings(path: Path) -> Settings:
    """Read the config that weight files shall be compared with.

    Raises:
        MissingFileError: no such file.
        ConfigError: it cannot be used; says why.
    """
    if not path.is_file():
        raise MissingFileError(f"the config {path} is not there; check the path")
    try:
        text = parse_text(path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if text is None or kind_of_config(text.value) is None:
        raise ConfigError(
            f"{path} is no config: expected a config.json, a diffusion.yaml or the config.json of a "
            "vocoder"
        )
    try:
        return read_config(path, text.value)
    except ArithmeticError as error:  # numbers of hundreds of digits
        raise ConfigError(f"{path}: {error}") from error


def find_settings(folder: Path, patterns: tuple[str, ...], *, apart_from: Path) -> list[Settings]:
    """Read the configs of a folder under usual names; those that cannot be used are passed over.

    Args:
        folder: where to look.
        patterns: of their names.
        apart_from: a file that is not asked about itself.
    """
    found: list[Settings] = []
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if path == apart_from or not path.is_file():
                continue
            try:
                found.append(load_settings(path))
            except SvcError:
                continue  # an inspection of that file says why
    return found


def path_of(settings: Settings) -> Path:
    """Return where a config was read from."""
    return settings.path or Path("config")


@contextmanager
def quiet_warnings() -> Iterator[list[str]]:
    """Collect what the config readers would log, instead of logging it."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log = logging.getLogger("svc.config")
    handler, passed_on = Collect(logging.WARNING), log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.propagate = passed_on
