"""Ranges of voices on disk: in a checkpoint, and in a side-car beside its config.

`svc train` writes both. Checkpoints of other programs have neither; `svc voice-range` makes the
side-car for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from svc.atomic import write_text
from svc.errors import CheckpointError, ConfigError
from svc.f0.voice_range import VoiceRange

RANGE_FILE = "voice_range.json"
"""Name of the side-car, in the folder of the checkpoint."""
RANGE_KEY = "voice_range"
"""Name of the entry, under the key ``svc`` of a checkpoint."""
_FORMAT = 1


def plain_ranges(ranges: Mapping[str, VoiceRange]) -> dict[str, object]:
    """Return speaker -> plain values, for a checkpoint."""
    return {speaker: voice.to_plain() for speaker, voice in ranges.items()}


def parse_ranges(values: object) -> dict[str, VoiceRange]:
    """Read what `plain_ranges` returned. Raises ValueError, naming the speaker."""
    if not isinstance(values, Mapping):
        raise ValueError("ranges are {speaker: range}")
    ranges = {}
    for speaker, value in values.items():
        try:
            ranges[str(speaker)] = VoiceRange.from_plain(value)
        except ValueError as error:
            raise ValueError(f'of the speaker "{speaker}": {error}') from error
    return ranges


def write_ranges(path: str | Path, ranges: Mapping[str, VoiceRange]) -> None:
    """Write a side-car. Raises OutputError."""
    content = {"format": _FORMAT, "speakers": plain_ranges(ranges)}
    write_text(Path(path), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_ranges(path: str | Path) -> dict[str, VoiceRange]:
    """Read a side-car.

    Args:
        path: the file.

    Returns:
        Speaker -> range; {} where there is no such file.

    Raises:
        ConfigError: it is damaged.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return parse_ranges(content.get("speakers") if isinstance(content, dict) else None)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{file} holds no ranges of voices ({error}); make it again with  svc voice-range  or "
            "delete it"
        ) from error


def ranges_in(content: Mapping[str, object], what: str | Path) -> dict[str, VoiceRange]:
    """Return the ranges in a loaded checkpoint.

    Args:
        content: from `load_checkpoint`.
        what: the file, for the message.

    Returns:
        Speaker -> range; {} where it holds none.

    Raises:
        CheckpointError: they are damaged.
    """
    extra = content.get("svc")
    found = extra.get(RANGE_KEY) if isinstance(extra, Mapping) else None
    if found is None:
        return {}
    try:
        return parse_ranges(found)
    except ValueError as error:
        raise CheckpointError(f"{what}: damaged range of a voice: {error}") from error


def own_ranges(model_path: str | Path) -> dict[str, VoiceRange]:
    """Read the ranges in a checkpoint file; those of .safetensors are in its metadata.

    Raises:
        MissingFileError: no such checkpoint.
        CheckpointError: it cannot be read.
    """
    from svc.checkpoint import load_checkpoint, safetensors_metadata  # torch: graphs do without

    model = Path(model_path)
    if model.suffix == ".safetensors":
        try:
            content = json.loads(safetensors_metadata(model).get("svc", "{}"))
        except ValueError as error:
            raise CheckpointError(f"{model}: damaged metadata: {error}") from error
        return ranges_in(content if isinstance(content, dict) else {}, model)
    # Mapped: of the tensors nothing is read.
    return ranges_in(load_checkpoint(model, mmap=True), model)


def find_ranges(model_path: str | Path) -> dict[str, VoiceRange]:
    """Find the ranges of the voices of a model: in the checkpoint, else in the side-car beside it.

    Args:
        model_path: a `G_*.pth`, or another weight file.

    Returns:
        Speaker -> range, of those that are known.

    Raises:
        MissingFileError: no such checkpoint.
        CheckpointError: it cannot be read.
        ConfigError: the side-car is damaged.
    """
    own = own_ranges(model_path)
    return {**read_ranges(Path(model_path).with_name(RANGE_FILE)), **own}
