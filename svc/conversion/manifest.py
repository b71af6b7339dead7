"""The manifest beside a result: with what, from what and how it was made, so that it can be made again.

It holds no name of a user or a machine: folders are written as they were given, the home folder as "~".
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
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
LAYOUT = 1
"""Of the file; another number when a key changes its meaning."""

_PACKAGES = ("torch", "numpy", "scipy", "soundfile", "soxr", "onnxruntime", "openvino")


def manifest_path(result: Path) -> Path:
    """Return where the manifest of a result lies: ``song.flac.json`` of ``song.flac``."""
    return result.with_name(result.name + SUFFIX)


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
            "svc_manifest": LAYOUT,
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


def shown(path: str | Path) -> str:
    """Return a path, or a word of a command line, with the home folder as "~"."""
    text, home = str(path), str(home_folder() or "/")
    if len(home) < 2:  # there is none, or it is the root
        return text
    for before in ("", "="):  # --flag=PATH, ID=PATH
        start = before + home
        at = text.find(start)
        if at == 0 or (before and at > 0):
            end = at + len(start)
            if end == len(text) or text[end] in "/\\":
                return text[:at] + before + "~" + text[end:]
    return text


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
    if isinstance(value, Path):
        return shown(value)
    if isinstance(value, float):
        return round(value, 6)
    return value
