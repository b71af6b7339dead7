"""Held-out clips of a voice: the losses of training on fixed crops, and whole clips that are sung.

All random numbers come from seeds of their own, whatever the seed of a run: scores of two runs on the
same clips can be compared, and a validation changes nothing in the training around it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

import torch

from svc.audio.frames import slice_segments
from svc.audio.mel import LogMel
from svc.config import SvcConfig
from svc.synthesizer.losses import generator_losses
from svc.synthesizer.model import Synthesizer
from svc.training.batches import Batch, collate
from svc.training.clips import Clip, ClipDataset
from svc.training.scores import Judge, Sung, Take
from svc.training.stopping import StoppedError, never

_SEED = 20230731  # of what is drawn on the crops
_TOGETHER = 8  # clips in a batch of crops, whatever the batch size of the run


class Validation:
    """The held-out clips of a run.

    Args:
        config: the whole config; `train.val_clips` of the clips are sung, evenly over the list.
        clips: all of them, not augmented.
        frames: the length of each, of which `clips` takes the first `CROP_FRAMES`.
        mel: how training measures mels.
    """

    def __init__(
        self, config: SvcConfig, clips: ClipDataset, frames: Sequence[int], mel: LogMel
    ) -> None:
        self._config, self._clips, self._mel = config, clips, mel
        count = min(config.train.val_clips, len(clips))
        self.sung = [number * len(clips) // count for number in range(count)]
        """Numbers of the clips that are sung."""
        facts = [(path.as_posix(), n) for path, n in zip(clips.paths, frames, strict=True)]
        # How mels are taken decides the score as much as the clips do.
        described = repr((facts, self.sung, mel.config)).encode("utf-8", "surrogatepass")
        self.measure = f"{zlib.crc32(described):08x}"
        """Of which clips, and how, a score is: scores of others cannot be compared with it."""
        self._judge = Judge(config.data.sampling_rate, config.data.hop_length)
        self._recorded: dict[int, Take] = {}

    def __len__(self) -> int:
        """Clips."""
        return len(self._clips)

    @torch.no_grad()
    def losses(
        self,
        generator: Synthesizer,
        device: torch.device,
        stopping: Callable[[], bool] = never,
    ) -> dict[str, float]:
        """Measure what training lowers, without dropout: the reconstruction through the posterior,
        the divergence and the pitch, on one window of each clip and the whole clips around them.

        Args:
            generator: in eval mode.
            device: where it is.
            stopping: asked between batches whether the run is to end.

        Returns:
            The weighted losses "mel", "kl" and, with automatic F0, "lf0": means over the clips.

        Raises:
            StoppedError: the run is to end.
            SvcError: a clip cannot be read.
        """
        totals: dict[str, float] = {}
        for start in range(0, len(self), _TOGETHER):
            _check(stopping)
            part = range(start, min(start + _TOGETHER, len(self)))
            batch = collate([self._clips.clip(index, 1) for index in part])
            if not isinstance(batch, Batch):
                raise batch
            for name, value in self._losses(generator, batch.to(device), start).items():
                totals[name] = totals.get(name, 0.0) + value * len(batch)
        return {name: total / len(self) for name, total in totals.items()}

    def _losses(self, generator: Synthesizer, batch: Batch, start: int) -> dict[str, float]:
        draws = torch.Generator().manual_seed(_SEED + start)
        output = generator(
            batch.units, batch.f0, batch.uv, batch.spec, batch.speaker, batch.lengths, batch.volume,
            generator=draws,
        )  # fmt: skip
        starts = output.starts.to(batch.spec.device)
        window = slice_segments(batch.spec, starts, self._config.segment_frames)
        train = self._config.train
        losses = generator_losses(
            output,
            self._mel.from_spec(window),
            self._mel(output.wav[:, 0].float()),
            c_mel=train.c_mel,
            c_kl=train.c_kl,
        )
        return {name: float(value) for name, value in losses.parts.items()}

    def sing(
        self,
        generator: Synthesizer,
        device: torch.device,
        stopping: Callable[[], bool] = never,
    ) -> Iterator[Sung]:
        """Let the voice sing with the pitch of the recordings, from the prior as `svc infer` does,
        with the noise of the original's validations (spec_core 7.4).

        Args:
            generator: in eval mode.
            device: where it is.
            stopping: asked between clips whether the run is to end.

        Yields:
            The clips, measured.

        Raises:
            StoppedError: the run is to end.
            SvcError: a clip cannot be read.
        """
        for place, index in enumerate(self.sung):
            _check(stopping)
            clip = self._clips.clip(index, 1)
            wav, _ = generator.infer(
                clip.units[None].to(device),
                clip.f0[None].to(device),
                clip.uv[None].to(device),
                torch.tensor([clip.speaker], device=device),
                volume=None if clip.volume is None else clip.volume[None].to(device),
            )
            sung = wav[:, 0].float().cpu()
            recorded = self._reference(index, clip)
            made = self._judge.listen(sung[0].numpy(), self._mel(sung)[0].numpy())
            score = self._judge.compare(recorded, made)
            yield Sung(place, recorded, made, score)

    def _reference(self, index: int, clip: Clip) -> Take:
        """Measure a recording, the first time."""
        if index not in self._recorded:
            mel = self._mel.from_spec(clip.spec[None])[0].numpy()
            self._recorded[index] = self._judge.listen(clip.wav.numpy(), mel)
        return self._recorded[index]


def _check(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise StoppedError
