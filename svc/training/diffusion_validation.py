"""Held-out clips of a diffusion model: a loss that can be compared, and a few clips that are sung
(spec_diffusion 11; 12, B12).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svc.config import DiffusionConfig
from svc.dataset.feature_settings import FeatureSettings
from svc.dataset.store import ClipStore, take
from svc.diffusion.unit2mel import Unit2Mel
from svc.training.diffusion_clips import DiffusionDataset, batch_of
from svc.training.stopping import never
from svc.vocoder.nsf_hifigan import NsfHifigan

T = TypeVar("T")
FloatArray = npt.NDArray[np.float32]

LOSS_CLIPS = 32
"""Clips that count; of a longer list every n-th."""
_TIMES = 8  # of noise, evenly over the schedule, per clip
_MAX_SECONDS = 30.0  # of one clip
_SEED = 20211221  # of all validations, whatever the seed of a run: their losses can be compared


@dataclass(frozen=True)
class Sung:
    """A held-out clip as recorded and as sung."""

    name: str  # "<speaker>_<file>.wav"
    truth: FloatArray  # (M, N) natural-log mel
    made: FloatArray  # (M, N)
    recorded: FloatArray | None  # (T,) samples
    wav: FloatArray | None  # (T,) samples; None without a vocoder's weights
    real_time_factor: float  # time taken over length

    @property
    def distance(self) -> float:
        """Mean |difference| of the mels."""
        return float(np.abs(self.truth - self.made).mean())


class Validation:
    """The held-out clips of a run.

    Args:
        config: the whole config.
        settings: what the features have to be made with.
        paths: the clips.
        samples: how many of them are sung.
        vocoder: turns mels into audio; None = pictures only.
        store: reads the clips; None = from their files.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        settings: FeatureSettings,
        paths: Sequence[Path],
        *,
        samples: int,
        vocoder: NsfHifigan | None,
        store: ClipStore | None = None,
    ) -> None:
        self.config, self.vocoder = config, vocoder
        self._counted = _spread(paths, LOSS_CLIPS)
        self._sung = _spread(range(len(self._counted)), samples)
        self._clips = DiffusionDataset(config, settings, self._counted, store=store)
        rate = config.data.sampling_rate / config.data.block_size
        self._max_frames = max(1, int(_MAX_SECONDS * rate))

    def __len__(self) -> int:
        """Clips that count for the loss."""
        return len(self._counted)

    @property
    def measure(self) -> str:
        """Of which clips and how the loss is taken: losses of another measure mean nothing here."""
        names = "\n".join(path.as_posix() for path in self._counted)
        facts = (names, self.config.model.trained_steps, self.config.model.n_steps)
        return f"{zlib.crc32(repr(facts).encode('utf-8', 'surrogatepass')):08x}"

    @torch.no_grad()
    def loss(
        self, model: Unit2Mel, device: torch.device, stopping: Callable[[], bool] = never
    ) -> float | None:
        """Return the mean loss, at the same times and with the same noise each time; None when it
        was left because `stopping` said so.
        """
        losses = []
        for index in range(len(self)):
            if stopping():
                return None
            clip = self._clips.whole(index, self._max_frames)
            draws = torch.Generator().manual_seed(_SEED + index)
            # One time of each eighth of the schedule: a plain draw varies more than models do.
            share = (torch.arange(_TIMES) + torch.rand(_TIMES, generator=draws)) / _TIMES
            times = (share * model.k_step_max).long().clamp(max=model.k_step_max - 1)
            batch = batch_of([clip] * _TIMES).to(device)
            mel = batch.mel.transpose(1, 2)
            noise = torch.randn((_TIMES, 1, *mel.shape[1:]), generator=draws)
            loss = model.loss(
                mel, batch.units, batch.f0, batch.volume, batch.speaker,
                times=times.to(device), noise=noise.to(device),
            )  # fmt: skip
            losses.append(float(loss))
        return float(np.mean(losses))

    def sing(self, model: Unit2Mel, device: torch.device) -> Iterator[Sung]:
        """Sing some of the clips as the config's `infer` section says: from noise, or from their
        own mels where the model can only refine.
        """
        infer, data = self.config.infer, self.config.data
        for index in self._sung:
            clip = self._clips.whole(index, self._max_frames)
            batch = batch_of([clip]).to(device)
            mel = batch.mel.transpose(1, 2)
            began = time.perf_counter()
            made = model.infer(
                batch.units,
                batch.f0,
                batch.volume,
                batch.speaker,
                mel=mel if model.only_refines else None,
                k_step=model.k_step_max,
                method=infer.method,
                speedup=infer.speedup,
                generator=torch.Generator().manual_seed(_SEED + index),
            )
            wav = self._audio(made, batch.f0, index)
            seconds = mel.shape[2] * data.block_size / data.sampling_rate
            path = Path(clip.name)
            yield Sung(
                name=f"{path.parent.name}_{path.stem}.wav",
                truth=mel[0].cpu().numpy(),
                made=made[0].cpu().numpy(),
                recorded=None if wav is None else self._recorded(path, len(wav)),
                wav=wav,
                real_time_factor=(time.perf_counter() - began) / seconds,
            )

    def _recorded(self, path: Path, length: int) -> FloatArray:
        wav: FloatArray = take(self._clips.store.samples(path).values, 0, length).numpy()
        return wav

    @torch.no_grad()
    def _audio(self, mel: Tensor, f0: Tensor, index: int) -> FloatArray | None:
        if self.vocoder is None:
            return None
        draws = torch.Generator().manual_seed(_SEED + index)
        wav: FloatArray = self.vocoder(mel, f0, generator=draws)[0].cpu().numpy()
        return wav


def check_sampling(config: DiffusionConfig, model: Unit2Mel) -> None:
    """Refuse an `infer` section that the first validation would fail with. Raises ConfigError."""
    steps = model.k_step_max if model.only_refines else None
    model.check_infer(config.infer.method, k_step=steps, speedup=config.infer.speedup)


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of the items, evenly over all."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]
