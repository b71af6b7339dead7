"""What is looked at before the first step, so that a run does not die of its data an hour later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from svc.config import SvcConfig, check_encoder_width
from svc.dataset.features import FeatureCache, FeaturePaths
from svc.dataset.filelist import read_filelist
from svc.dataset.store import ClipStore, open_store
from svc.dataset.survey import Survey, some, survey
from svc.errors import ConfigError, DatasetError
from svc.training.clips import ClipDataset


@dataclass(frozen=True)
class CheckedList:
    """A file list whose clips were all found usable without reading their sound."""

    paths: list[Path]
    frames: list[int]  # of each clip
    dropped: list[Path] = field(default_factory=list)  # too short to be used
    store: ClipStore | None = None  # reads the clips; None = from their files
    notes: list[str] = field(default_factory=list)  # for the log
    warnings: list[str] = field(default_factory=list)  # what is unusual and allowed

    @property
    def packed(self) -> bool:
        """Whether clips come from packs."""
        return self.store is not None and bool(self.store.packs)


def read_lists(config: SvcConfig) -> tuple[CheckedList, CheckedList]:
    """Read and check the training and the validation list of a config.

    Every clip is there, has a known speaker, the right rate and all features; these belong to the
    recordings of today and to the encoder, rate and hop of the config; the units of one clip per
    speaker are opened, of packed clips all are looked at. Clips too short to be trained on are left
    out, as long as each speaker keeps one.

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
    listings = [Path(config.data.training_files), Path(config.data.validation_files)]
    training = listed_clips(listings[0], config.spk)
    if not training:
        raise DatasetError(
            f"the file list {listings[0]} is empty; put recordings into dataset_raw/<voice>/ and "
            "run  svc resample  and  svc preprocess"
        )
    validation = listed_clips(listings[1], config.spk)
    parts = ("units", "f0", "volume") if config.model.vol_embedding else ("units", "f0")
    settings = FeatureCache.from_config(config).settings
    store = open_store(settings, parts, [*training, *validation])
    checked = [
        _long_enough(config, listing, paths, look_over(listing, paths, store), store)
        for listing, paths in zip(listings, (training, validation), strict=True)
    ]
    _check_left(config, listings[0], training, checked[0])
    _check_units(config, checked[0].paths, store)
    return checked[0], checked[1]


def _check_speakers(config: SvcConfig) -> None:
    rows = config.model.n_speakers
    for name, number in config.spk.items():
        if number >= rows:
            raise ConfigError(
                f'{config.path}: the speaker "{name}" has id {number} and "model.n_speakers" is '
                f'{rows}; set "model.n_speakers" to {number + 1} or run  svc preprocess --stage '
                "config"
            )


def listed_clips(listing: Path, speakers: Collection[str]) -> list[Path]:
    """Return the clips of a file list; each is of a known speaker.

    Args:
        listing: the list.
        speakers: names of the config.

    Raises:
        MissingFileError: no such list.
        DatasetError: a clip in the folder of a stranger.
    """
    paths, known = read_filelist(listing), set(speakers)
    strangers = sorted({path.parent.name for path in paths} - known)
    if strangers:
        raise DatasetError(
            f"{listing} has clips in the folder{'s' * (len(strangers) > 1)} {some(strangers)}, "
            f"unknown to the config; its speakers are: {', '.join(sorted(known))}; run  svc "
            "preprocess --stage config"
        )
    return paths


def look_over(listing: Path, paths: Sequence[Path], store: ClipStore, *, flag: str = "") -> Survey:
    """Refuse a list with clips that are not there, lack features, or have some that do not belong
    to them (`svc.dataset.survey`).

    A pack may stand for its files: where not one recording of a list is there, the pack has been
    taken to another machine alone. Where some are there, those that are not have been removed.

    Args:
        listing: the list, for messages.
        paths: its clips.
        store: how they will be read.
        flag: what svc preprocess has to be told to make the features.

    Returns:
        The length of each clip, and notes.

    Raises:
        DatasetError: counts and names the files.
    """
    loose = [path for path in paths if store.packed(path) is None]
    absent = [path for path in paths if not path.is_file()]
    if absent and (loose or len(absent) < len(paths)):
        raise DatasetError(
            f"{len(absent)} of {len(paths)} clips of {listing} are not there: {some(absent)}; "
            "restore them or run  svc preprocess --stage config"
        )
    lacking = [
        file
        for path in loose
        for part in store.parts
        if not (file := getattr(FeaturePaths.of(path), part)).is_file()
    ]
    if lacking:
        raise DatasetError(
            f"{len(lacking)} feature files of {listing} are missing: {some(lacking)}; run  "
            f"svc preprocess --stage features{flag}"
        )
    found = survey(listing, paths, store, flag=flag)
    found.notes.insert(0, _where_from(listing, paths, loose, store))
    return found


def _where_from(
    listing: Path, paths: Sequence[Path], loose: Sequence[Path], store: ClipStore
) -> str:
    if not store.packs or len(loose) == len(paths):
        hint = "; svc preprocess --stage pack  puts them into one, which is read faster"
        return f"clips of {listing} are read from their files{hint if paths else ''}"
    packs = " and ".join(map(str, store.packs))
    alone = "" if paths[0].is_file() else ", which stands alone"
    others = ""
    if loose:
        others = f"; {len(loose)} are not in it ({some(loose)}) and read from their files"
    return f"clips of {listing} are read from {packs}{alone}{others}"


def tell(note: Callable[..., None], *lists: CheckedList) -> None:
    """Write down what was found out about lists.

    Args:
        note: takes a line and its level, as `Journal.note` does.
        lists: of a run.
    """
    for text in dict.fromkeys(text for checked in lists for text in checked.notes):
        note(text)
    for text in dict.fromkeys(text for checked in lists for text in checked.warnings):
        note(text, level=logging.WARNING)


def _long_enough(
    config: SvcConfig, listing: Path, paths: Sequence[Path], found: Survey, store: ClipStore
) -> CheckedList:
    """Leave out clips shorter than the decoder's training window (spec_core 10, D16)."""
    need, pairs = config.segment_frames, list(zip(paths, found.frames, strict=True))
    dropped = [path for path, frames in pairs if frames < need]
    kept = [(path, frames) for path, frames in pairs if frames >= need]
    warnings = list(found.warnings)
    if dropped:
        warnings.append(
            f"{len(dropped)} of {len(pairs)} clips of {listing} are shorter than the "
            f"{_window(config):.2f} s that are trained at a time (train.segment_size) and left out: "
            f"{some(dropped)}"
        )
    return CheckedList(
        [path for path, _ in kept],
        [frames for _, frames in kept],
        dropped,
        store,
        found.notes,
        warnings,
    )


def _window(config: SvcConfig) -> float:
    return config.train.segment_size / config.data.sampling_rate


def _check_left(
    config: SvcConfig, listing: Path, listed: Sequence[Path], checked: CheckedList
) -> None:
    """Refuse to train speakers on nothing."""
    left = {path.parent.name for path in checked.paths}
    empty = [path for path in listed if path.parent.name not in left]
    if empty:
        speaker = empty[0].parent.name
        count = sum(path.parent.name == speaker for path in empty)
        raise DatasetError(
            f'{listing}: all {count} clips of "{speaker}" are shorter than the '
            f"{_window(config):.2f} s that are trained at a time, the first: {empty[0]}; join them "
            "to longer ones, or take the speaker out of the file lists"
        )


def _check_units(config: SvcConfig, paths: Sequence[Path], store: ClipStore) -> None:
    """Open one clip of each speaker, and those whose units are seen to be of another width."""
    first = {path.parent.name: path for path in reversed(paths)}
    places = {path: store.packed(path) for path in paths}
    odd = [
        path
        for path, place in places.items()
        if place is not None and place[1].arrays["units"].shape[-1] != config.model.ssl_dim
    ]
    dataset = ClipDataset(config, [*first.values(), *odd[:1]], augment=False, store=store)
    for index in range(len(dataset)):
        dataset.clip(index, 1)
