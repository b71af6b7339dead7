"""Made-up recordings with made-up features, as `svc preprocess` leaves them, for train.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from svc.audio.io import list_audio, write_audio
from svc.audio.loudness import frame_volume
from svc.config import SvcConfig, load_config
from svc.dataset.features import FeatureCache
from svc.dataset.packing import pack_dataset
from svc.dataset.store import open_store
from svc.training.batches import Batch, EpochBatches, choose_workers, stream
from svc.training.clips import ClipDataset, Memory, plan_memory

ROOT = Path(__file__).resolve().parents[2]
VOICE = "voice"
UNITS_PER_SECOND = 50
SEED = 7


def config_of(template: str, batch_size: int) -> SvcConfig:
    """A template with one speaker, float32, whose discriminator learns from the first step."""
    config = load_config(ROOT / "configs" / template)
    train = dataclasses.replace(
        config.train, gan_start_step=0, batch_size=batch_size, fp16_run=False, seed=SEED
    )
    return dataclasses.replace(config, train=train, spk={VOICE: 0})


def write_dataset(
    folder: Path, config: SvcConfig, clips: int, seconds: tuple[float, float]
) -> None:
    """Write clips of lengths between `seconds`, with their features and the pack."""
    cache, paths = FeatureCache.from_config(config), []
    rate, hop = config.data.sampling_rate, config.data.hop_length
    for number in range(clips):
        rng = np.random.default_rng([SEED, number])
        length = seconds[0] + (seconds[1] - seconds[0]) * ((0.618 * number) % 1)
        frames = round(length * rate / hop)
        time = np.arange(frames * hop + 10) / rate
        pitch = 110.0 + 20 * (number % 7)
        wav = 0.3 * np.sin(2 * np.pi * pitch * time) ** 3 + 0.01 * rng.standard_normal(len(time))
        path = folder / VOICE / f"{number:03}.wav"
        write_audio(path, wav.astype(np.float32), rate)
        n_units = max(1, round(frames * hop / rate * UNITS_PER_SECOND))
        units = rng.standard_normal((config.model.ssl_dim, n_units)).astype(np.float32)
        track = np.stack([np.full(frames, pitch), np.ones(frames)]).astype(np.float32)
        samples = torch.from_numpy(wav.astype(np.float32))[None]
        cache.save(
            path,
            units=torch.from_numpy(units),
            f0=torch.from_numpy(track),
            volume=frame_volume(samples, hop)[0][:frames],
        )
        paths.append(path)
    pack_dataset(folder, paths, cache.settings)


def batches(
    folder: Path, config: SvcConfig, *, packed: bool, workers: int | None, pin: bool
) -> Iterator[Batch]:
    """Batches for ever.

    Args:
        folder: of `write_dataset`.
        config: rates, crop and batch size.
        packed: as `svc train` reads them; False: every clip from its own files each time.
        workers: loader processes; None: as many as `svc train` takes.
        pin: for a CUDA device.
    """
    paths = list_audio(folder / VOICE)
    memory, store, hop = Memory(clips=False, specs=False), None, config.data.hop_length
    settings = FeatureCache.from_config(config).settings
    reader = open_store(settings, ("units", "f0"), paths)
    frames = [reader.length(path)[0] // hop for path in paths]
    if packed:
        store = reader
        memory = plan_memory(config, frames, packed=True)
    dataset = ClipDataset(
        config, paths, augment=True, seed=config.train.seed, memory=memory, store=store
    )
    if memory.clips or memory.specs:
        dataset.preload()
    count = choose_workers(dataset) if workers is None else workers
    order = EpochBatches(frames, config.train.batch_size, seed=config.train.seed)
    return stream(dataset, order, workers=count, pin=pin)


def audio_seconds(batch: Batch, config: SvcConfig) -> float:
    """Seconds of audio in a batch, without padding."""
    return int(batch.lengths.sum()) * config.data.hop_length / config.data.sampling_rate
