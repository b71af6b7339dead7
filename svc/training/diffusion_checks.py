"""What is looked at before the first step of a diffusion model (spec_diffusion 12, B7 and B9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from svc.config import (
    DiffusionConfig,
    check_encoder_width,
    check_vocoder,
    load_vocoder_config,
)
from svc.dataset.feature_settings import MEL_PARTS, FeatureSettings
from svc.dataset.store import ClipStore, open_store
from svc.devices import available_devices, resolve_device
from svc.diffusion.loading import check_diffusion_config
from svc.errors import ConfigError, DatasetError, MissingFileError
from svc.training.checks import CheckedList, listed_clips, look_over
from svc.training.diffusion_clips import Cache, DiffusionDataset, crop_frames, too_short
from svc.vocoder.nsf_hifigan import (
    NsfHifigan,
    find_vocoder,
    find_vocoder_config,
    load_vocoder,
    log_mel_of,
)


@dataclass(frozen=True)
class DiffusionLists:
    """The clips of a run."""

    training: CheckedList
    validation: CheckedList
    dropped: list[Path]
    """Training clips that no crop fits into."""


def check_config(config: DiffusionConfig) -> None:
    """Refuse what no training can work with. Raises ConfigError: names the key."""
    where, train = str(config.path), config.train
    check_diffusion_config(config, where)
    check_encoder_width(
        config.data.encoder,
        config.data.encoder_out_channels,
        where=where,
        advice="run  svc preprocess --speech_encoder NAME  to write a config that fits",
    )
    for name in (
        "batch_size", "epochs", "interval_log", "interval_val", "interval_force_save", "decay_step",
    ):  # fmt: skip
        if getattr(train, name) < 1:
            raise ConfigError(f'{where}: "train.{name}" is {getattr(train, name)}; use 1 or more')
    for name in ("lr", "gamma"):
        value = getattr(train, name)
        if not 0 < value < float("inf"):
            raise ConfigError(f'{where}: "train.{name}" is {value:g}; use a number above 0')
    if train.num_workers < 0 or not 0 <= train.weight_decay < float("inf"):
        raise ConfigError(
            f'{where}: "train.num_workers" and "train.weight_decay" must not be negative'
        )
    if crop_frames(config) < 1:
        raise ConfigError(
            f'{where}: "data.duration" is {config.data.duration:g} s, less than a frame; 2 is usual'
        )


def feature_settings(config: DiffusionConfig) -> FeatureSettings:
    """Return what the features have to be made with: encoder, frames, and the vocoder's mels.

    Raises:
        MissingFileError: the vocoder's config is not there; says where it comes from.
        ConfigError: the vocoder has another rate or hop.
    """
    vocoder = load_vocoder_config(find_vocoder_config(config.vocoder.ckpt))
    check_vocoder(config, vocoder, advice="set vocoder.ckpt to a vocoder of this rate and hop")
    return FeatureSettings(
        speech_encoder=config.data.encoder,
        sampling_rate=config.data.sampling_rate,
        hop_length=config.data.block_size,
        mel=log_mel_of(vocoder).config,
    )


def read_lists(config: DiffusionConfig, settings: FeatureSettings) -> DiffusionLists:
    """Read and check both file lists of a config.

    Every clip is there, has a known speaker, the right rate and all features; these belong to the
    recordings of today, to the encoder and to the vocoder; one clip per speaker is opened to compare
    units and mels with the config.

    Args:
        config: the whole config; paths in its lists count from the working directory.
        settings: of the features.

    Returns:
        The clips; the validation list may be empty.

    Raises:
        SvcError: the first kind of trouble found, naming files and the next step.
    """
    listings = [Path(config.data.training_files), Path(config.data.validation_files)]
    listing = listings[0]
    clips = [listed_clips(path, config.spk) for path in listings]
    parts = ("units", "f0", "volume", *MEL_PARTS)
    store = open_store(settings, parts, [*clips[0], *clips[1]])
    everything = _read(listing, clips[0], store)
    if not everything.paths:
        raise DatasetError(
            f"the file list {listing} is empty; put recordings into dataset_raw/<voice>/ and run  "
            "svc resample  and  svc preprocess --use_diff"
        )
    pairs = list(zip(everything.paths, everything.frames, strict=True))
    long = [pair for pair in pairs if pair[1] >= crop_frames(config)]
    if not long:
        path, frames = max(pairs, key=lambda pair: pair[1])
        raise DatasetError(
            f"all {len(pairs)} clips of {listing} are too short, the longest: "
            f"{too_short(path, frames, config)}"
        )
    validation = _read(listings[1], clips[1], store)
    _open_one_of_each(config, store, [*(path for path, _ in long), *validation.paths])
    training = replace(
        everything,
        paths=[path for path, _ in long],
        frames=[frames for _, frames in long],
        dropped=[path for path, frames in pairs if frames < crop_frames(config)],
    )
    return DiffusionLists(training, validation, training.dropped)


def _read(listing: Path, paths: list[Path], store: ClipStore) -> CheckedList:
    found = look_over(listing, paths, store, flag=" --use_diff")
    return CheckedList(paths, found.frames, store=store, notes=found.notes, warnings=found.warnings)


def _open_one_of_each(config: DiffusionConfig, store: ClipStore, paths: Sequence[Path]) -> None:
    first = {path.parent.name: path for path in reversed(paths)}
    dataset = DiffusionDataset(config, store.settings, list(first.values()), store=store)
    for index in range(len(dataset)):
        dataset.whole(index, 1)


def choose_device(config: DiffusionConfig, asked: str | None) -> tuple[torch.device, str | None]:
    """Choose where to train: as asked, else as the config says, else the best there is.

    Args:
        config: `device` and, where that is "cuda", `env.gpu_id`.
        asked: the flag.

    Returns:
        The device, and a warning where the config's does not exist here: templates say "cuda".

    Raises:
        DeviceError: the device asked for is not there.
    """
    if asked is not None:
        return resolve_device(asked), None
    wanted = f"cuda:{config.env.gpu_id}" if config.device == "cuda" else config.device
    if wanted in available_devices():
        return torch.device(wanted), None
    device = resolve_device(None)
    return device, f'the config\'s device "{wanted}" is not on this machine: training on {device}'


def choose_cache(config: DiffusionConfig, device: torch.device) -> Cache | None:
    """Return where clips are kept, by `train.cache_*`; None = they are read each time.

    Raises:
        ConfigError: the GPU's memory is asked for and the training is not on a GPU.
    """
    train = config.train
    if not train.cache_all_data:
        return None
    if train.cache_device == "cpu":
        return Cache(torch.device("cpu"), train.cache_fp16)
    if torch.device(device).type != train.cache_device.partition(":")[0]:
        raise ConfigError(
            f'{config.path}: "train.cache_device" is "{train.cache_device}" and this run is on '
            f'{device.type}; set it to "cpu"'
        )
    return Cache(device, train.cache_fp16)


def open_vocoder(
    config: DiffusionConfig, device: torch.device
) -> tuple[NsfHifigan | None, str | None]:
    """Load the vocoder that lets validations be heard; its weights need not be there.

    Returns:
        The vocoder, or None and the reason.

    Raises:
        CheckpointError: the weights are damaged, or another config's.
    """
    try:
        find_vocoder(config.vocoder.ckpt)
    except MissingFileError as error:
        return None, f"validations cannot be heard, only seen: {error}"
    return load_vocoder(config.vocoder.ckpt, kind=config.vocoder.type, device=device), None
