"""What is looked at before the first step, so that a run does not die of its data an hour later."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from svc.audio.io import audio_info
from svc.config import SvcConfig, check_encoder_width
from svc.dataset.features import FeaturePaths
from svc.dataset.filelist import read_filelist
from svc.errors import ConfigError, DatasetError
from svc.training.clips import ClipDataset, check_length

_SHOWN = 3  # files named in one message


@dataclass(frozen=True)
class CheckedList:
    """A file list whose clips were all found usable by their headers."""

    paths: list[Path]
    frames: list[int]  # of each clip


def read_lists(config: SvcConfig) -> tuple[CheckedList, CheckedList]:
    """Read and check the training and the validation list of a config.

    Every clip is there, has a known speaker, the right rate, enough length and all feature files;
    one clip per speaker is opened to compare the units with the config.

    Args:
        config: the whole config; paths in its lists count from the working directory.

    Returns:
        Training and validation clips; the validation list may be empty.

    Raises:
        SvcError: the first kind of trouble found, naming files and the next step.
    """
    _check_speakers(config)
    # Such a voice could be trained, on features made with another program, but not sung with.
    check_encoder_width(
        config.model.speech_encoder,
        config.model.ssl_dim,
        where=str(config.path),
        advice="run  svc preprocess --speech_encoder NAME  to write a config that fits",
    )
    train = _read(config, Path(config.data.training_files))
    if not train.paths:
        raise DatasetError(
            f"the file list {config.data.training_files} is empty; put recordings into "
            "dataset_raw/<voice>/ and run  svc resample  and  svc preprocess"
        )
    validation = _read(config, Path(config.data.validation_files))
    _check_units(config, train.paths)
    return train, validation


def _check_speakers(config: SvcConfig) -> None:
    rows = config.model.n_speakers
    for name, number in config.spk.items():
        if number >= rows:
            raise ConfigError(
                f'{config.path}: the speaker "{name}" has id {number} and "model.n_speakers" is '
                f'{rows}; set "model.n_speakers" to {number + 1} or run  svc preprocess --stage '
                "config"
            )


def _read(config: SvcConfig, listing: Path) -> CheckedList:
    paths = listed_clips(listing, config.spk)
    parts = ("units", "f0", "volume") if config.model.vol_embedding else ("units", "f0")
    check_features(listing, paths, parts)
    return CheckedList(paths, [_frames(config, path) for path in paths])


def listed_clips(listing: Path, speakers: Collection[str]) -> list[Path]:
    """Return the clips of a file list; each is there and of a known speaker.

    Args:
        listing: the list.
        speakers: names of the config.

    Raises:
        MissingFileError: no such list.
        DatasetError: a clip in the folder of a stranger, or a clip that is not there.
    """
    paths, known = read_filelist(listing), set(speakers)
    strangers = sorted({path.parent.name for path in paths} - known)
    if strangers:
        raise DatasetError(
            f"{listing} has clips in the folder{'s' * (len(strangers) > 1)} {_some(strangers)}, "
            f"unknown to the config; its speakers are: {', '.join(sorted(known))}; run  svc "
            "preprocess --stage config"
        )
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        raise DatasetError(
            f"{len(absent)} of {len(paths)} clips of {listing} are not there: {_some(absent)}; "
            "restore them or run  svc preprocess --stage config"
        )
    return paths


def check_features(
    listing: Path, paths: Sequence[Path], parts: Sequence[str], *, flag: str = ""
) -> None:
    """Refuse a list whose clips lack feature files.

    Args:
        listing: the list, for the message.
        paths: its clips.
        parts: names of the files in `FeaturePaths`.
        flag: what svc preprocess has to be told to make them.

    Raises:
        DatasetError: counts and names the files.
    """
    lacking = [
        str(file)
        for path in paths
        for part in parts
        if not (file := getattr(FeaturePaths.of(path), part)).is_file()
    ]
    if lacking:
        raise DatasetError(
            f"{len(lacking)} feature files of {listing} are missing: {_some(lacking)}; run  "
            f"svc preprocess --stage features{flag}"
        )


def _frames(config: SvcConfig, path: Path) -> int:
    frames = header_frames(path, config.data.sampling_rate, config.data.hop_length)
    check_length(config, path, frames)
    return frames


def header_frames(path: Path, sampling_rate: int, hop_length: int) -> int:
    """Return how many frames a clip has, by its header. Raises DatasetError for another rate."""
    info = audio_info(path)
    if info.sr != sampling_rate:
        raise DatasetError(
            f"{path} has {info.sr} Hz and the config says {sampling_rate} Hz; run  svc "
            "resample  and  svc preprocess  again"
        )
    return info.n_samples // hop_length


def _check_units(config: SvcConfig, paths: Sequence[Path]) -> None:
    first = {path.parent.name: path for path in reversed(paths)}
    dataset = ClipDataset(config, list(first.values()), augment=False)
    for index in range(len(dataset)):
        dataset.clip(index, 1)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
