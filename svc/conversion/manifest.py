"""The manifest beside a result: with what, from what and how it was made, so that it can be made again.

It holds no name of a user or a machine: folders are written as they were given, the home folder as "~".
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svc import __version__
from svc.atomic import atomic_path
from svc.conversion.feature_cache import FeatureCache, home_folder
from svc.conversion.file_hashes import FileHashes
from svc.conversion.weights_used import Files, files_used
from svc.errors import MissingFileError

if TYPE_CHECKING:
    from svc.conversion.backend import Backend
    from svc.conversion.chosen import ChosenVoice
    from svc.conversion.options import DiffusionChoice, HearingChoice

SUFFIX = ".json"
_MARK = "svc_manifest"  # the key by which a manifest is known
LAYOUT = 1
"""Of the file; another number when a key changes its meaning."""

_PACKAGES = ("torch", "numpy", "scipy", "soundfile", "soxr", "onnxruntime", "openvino")


def manifest_path(result: Path) -> Path:
    """Return where the manifest of a result lies: ``song.flac.json`` of ``song.flac``."""
    return result.with_name(result.name + SUFFIX)


def is_result(path: Path) -> bool:
    """Tell whether a manifest beside a file says that it was made by this program."""
    try:
        told = json.loads(manifest_path(path).read_bytes())
    except (OSError, ValueError, RecursionError):  # there is none, or it is something else's
        return False
    return isinstance(told, dict) and _MARK in told


@dataclass(frozen=True)
class Inputs:
    """What a voice was read from; see `Converter.from_files`."""

    voice: ChosenVoice
    choice: HearingChoice
    diffusion: DiffusionChoice | None = None
    enhancer: Path | None = None


@dataclass(frozen=True)
class RunFacts:
    """What is the same for all results of a run.

    Attributes:
        command: the command line, without the program.
        files: what the voice was read from, see `svc.conversion.weights_used.files_used`.
        settings: what listens and computes: device, pitch predictor and so on.
        hashes: of the files.
        cache: of what was heard before; None = there is none.
    """

    command: Sequence[str]
    files: Files
    settings: Mapping[str, Any]
    hashes: FileHashes
    cache: FeatureCache | None = None

    @classmethod
    def of(
        cls, command: Sequence[str], inputs: Inputs, loaded: Backend, hashes: FileHashes
    ) -> RunFacts:
        """Gather the facts of a run, and begin to hash its files.

        Args:
            command: the command line, without the program.
            inputs: what the voice was read from.
            loaded: the voice.
            hashes: where the files are hashed.

        Raises:
            SvcError: a file is not there any more.
        """
        choice, diffusion = inputs.choice, inputs.diffusion
        files = files_used(
            inputs.voice,
            choice,
            diffusion=diffusion,
            enhancer=inputs.enhancer,
        )
        hashes.ask(path for paths in files.values() for path in paths)
        predictor = loaded.f0_predictor
        settings: dict[str, Any] = {
            "backend": loaded.computing.backend,
            "precision": loaded.computing.precision,
            "compiled": loaded.computing.compiled,
            "device": loaded.where,
            "speech_encoder": inputs.voice.encoder or None,
            "encoder_precision": choice.encoder_precision,
            "f0_predictor": None if predictor is None else predictor.name,
            "f0_min": choice.f0_min,
            "f0_max": choice.f0_max,
            "f0_threshold": choice.f0_threshold,
            "compat": choice.compat,
            "index_k": choice.index_k,
            "index_nprobe": choice.index_nprobe,
        }
        if diffusion is not None:
            settings["diffusion_method"] = diffusion.method
            settings["diffusion_speedup"] = diffusion.speedup
        cache = None if choice.cache is None else choice.cache.store
        return cls(command, files, settings, hashes, cache)

    def features_asked(self) -> tuple[int, int]:
        """Return how many units and pitch curves came out of the cache so far, and how many did not."""
        return (0, 0) if self.cache is None else (self.cache.hits, self.cache.misses)

    def write(self, result: Path, facts: Mapping[str, Any], files: Files) -> Path:
        """Write the manifest of a result.

        Args:
            result: the file that was written.
            facts: of this result: speaker, options, seconds, timings.
            files: what this result was made from: its song, pitch curve, mix of speakers.

        Returns:
            The manifest's path.

        Raises:
            OutputError: it cannot be written.
        """
        told = {
            _MARK: LAYOUT,
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": ["svc", *map(shown, self.command)],
            **facts,
            "settings": self.settings,
            "result": {**self._told(result), **facts.get("result", {})},
            "files": {
                role: [self._told(path) for path in paths]
                for role, paths in {**files, **self.files}.items()
            },
            "versions": versions(),
        }
        text = json.dumps(_plain(told), indent=2, ensure_ascii=False) + "\n"
        target = manifest_path(result)
        with atomic_path(target) as temporary:
            # Names of files that are no Unicode become escapes, which JSON reads back.
            temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
        return target

    def _told(self, path: Path) -> dict[str, Any]:
        try:
            return {
                "path": shown(path),
                "bytes": path.stat().st_size,
                "sha256": self.hashes.of(path),
            }
        except (OSError, MissingFileError):  # removed meanwhile
            return {"path": shown(path), "bytes": None, "sha256": None}


def versions() -> dict[str, str]:
    """Return versions of this program and of what it computes with."""
    found = {"svc": __version__, "python": platform.python_version(), "system": _system()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def shown(text: str | Path) -> str:
    """Return a path, or a text with paths such as a word of a command line, with the home folder as "~"."""
    told, home = str(text), home_folder()
    if home is not None and home.is_absolute():
        for folder in dict.fromkeys((str(home), os.path.realpath(home))):  # it may be a link
            told = _home_pattern(folder).sub("~", told)
    return told


@lru_cache(maxsize=4)
def _home_pattern(home: str) -> re.Pattern[str]:
    """Return what finds a home folder and nothing that is only called like it."""
    folders = [part for part in re.split(r"[/\\]+", home) if part]
    if not folders:  # the root
        return re.compile(r"(?!)")
    start = r"[/\\]+" if home[0] in "/\\" else ""  # else a drive
    path = start + r"[/\\]+".join(map(re.escape, folders))
    # Not in the middle of another path, but for a short flag: -mPATH.
    before = r"(?:(?<![\w.~/\\-])|(?<=^-\w)|(?<=\s-\w))"
    return re.compile(rf"{before}{path}(?![\w-]|\.\w)", re.IGNORECASE if os.name == "nt" else 0)


def _system() -> str:
    return f"{platform.system()} {platform.machine()}"


def _plain(value: Any) -> Any:
    """Return a value as JSON can write it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | Path):
        return shown(value)
    if isinstance(value, float):
        return round(value, 6)
    return value
