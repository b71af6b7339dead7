"""Files that go with a voice: clusters or index of its timbre, a diffusion model, a mix of speakers.

Where the user names none, they are looked for where this project and so-vits-svc 4.1 leave them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from svc.conversion.mix_files import parse_mix
from svc.conversion.speaker_mix import SpeakerMix
from svc.errors import ConfigError, MissingFileError
from svc.f0.range_files import RANGE_FILE, find_ranges, read_ranges
from svc.f0.voice_range import VoiceRange

MIX_FILES = ("spkmix.json", "spkmix.csv", "spkmix.py")
_INDEX_NAMES = ("feature_index", "feature_and_index.pkl")
_CLUSTER_NAME = "kmeans_10000.pt"
_CONFIG_NAME = "config.yaml"


def find_timbre(given: str | Path, folder: Path, *, index: bool) -> Path:
    """Find clusters or index of a voice.

    Args:
        given: the path the user named, "" = none.
        folder: where the voice lies.
        index: look for an index, not for clusters; a path that is given may be either.

    Raises:
        MissingFileError: nothing is there; names the command that makes it.
        ConfigError: several files of clusters; one is to be named.
    """
    if given:
        path = Path(given)
        if not path.exists():
            raise MissingFileError(f"-cm/--cluster_model_path {path} is not there; check the path")
        return path
    if index:
        found = [folder / name for name in _INDEX_NAMES if (folder / name).exists()]
        if not found:
            raise MissingFileError(
                f"there is no retrieval index in {folder} ({' or '.join(_INDEX_NAMES)}): make it with  "
                "svc train-index , or name one with -cm"
            )
        return found[0]
    if (folder / _CLUSTER_NAME).exists():
        return folder / _CLUSTER_NAME
    files = sorted(folder.glob("kmeans_*.pt"))
    if not files:
        raise MissingFileError(
            f"there are no clusters kmeans_*.pt in {folder}: make them with  svc train-cluster , take "
            "an index with -fr, or name a file with -cm"
        )
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ConfigError(f"{folder} has several files of clusters ({names}): name one with -cm")
    return files[0]


def find_diffusion(model: Path | None, config: Path | None, folder: Path) -> tuple[Path, Path]:
    """Find a diffusion model and its config.

    Args:
        model: the checkpoint; None = the one with the highest step in `folder`.
        config: its config; None = config.yaml beside it.
        folder: where a diffusion model is looked for.

    Returns:
        Existing files.

    Raises:
        MissingFileError: one of them is not there; says what to give.
    """
    if model is None:
        steps = {
            int(found.group(1)): path
            for path in folder.glob("model_*.pt")
            if (found := re.fullmatch(r"model_(\d+)\.pt", path.name))
        }
        if not steps:
            raise MissingFileError(
                f"there is no diffusion model model_*.pt in {folder}; name one with -dm"
            )
        model = steps[max(steps)]
    if not model.is_file():
        raise MissingFileError(f"the diffusion model {model} is not there; check -dm")
    config = model.parent / _CONFIG_NAME if config is None else config
    if not config.is_file():
        raise MissingFileError(
            f"the config {config} of the diffusion model is not there; name it with -dc"
        )
    return model, config


def diffusion_ranges(model: Path) -> dict[str, VoiceRange]:
    """Find the ranges of the voices of a diffusion model that sings alone.

    Its own run does not note them; that of the voice does, and ``svc voice-range`` writes to the same
    place: logs/44k/voice_range.json for the model in logs/44k/diffusion/ or in its best/.

    Args:
        model: the checkpoint.

    Returns:
        Speaker -> range: of the checkpoint, of a side-car beside it, or of one in the two folders above.

    Raises:
        MissingFileError: no such checkpoint.
        CheckpointError: it cannot be read.
        ConfigError: a side-car is damaged.
    """
    ranges: dict[str, VoiceRange] = {}
    for folder in model.absolute().parents[2:0:-1]:
        ranges |= read_ranges(folder / RANGE_FILE)
    return ranges | find_ranges(model)


def find_mix(given: str | None, speakers: Mapping[str, int]) -> SpeakerMix:
    """Read who sings when.

    Args:
        given: shares or a file, see `parse_mix`; None = one of `MIX_FILES` in the working folder.
        speakers: name -> id, of the voice.

    Raises:
        MissingFileError: there is no file.
        ConfigError: it is wrong.
    """
    if given is None:
        there = [name for name in MIX_FILES if Path(name).is_file()]
        if not there:
            raise MissingFileError(
                "-usm/--use_spk_mix: say who sings with --spk_mix, for example --spk_mix "
                f"alice=0.7,bob=0.3, or write {MIX_FILES[0]} here"
            )
        given = there[0]
    return parse_mix(given, speakers)
