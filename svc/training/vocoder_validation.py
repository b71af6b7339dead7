"""Held-out clips of a mel vocoder: sung back from their own mels and compared with the recording."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import torch

from svc.config.vocoder_training import VocoderRunConfig
from svc.training.scores import Judge, Sung
from svc.training.stopping import StoppedError, never
from svc.training.vocoder_clips import Takes, VocoderDataset
from svc.vocoder.generator import Generator
from svc.vocoder.nsf_hifigan import log_mel_of

MAX_SECONDS = 10.0  # of one clip
_SEED = 20221211  # of the source's noise, whatever the seed of a run: scores can be compared


class VocoderValidation:
    """The held-out clips of a run.

    Args:
        config: the vocoder and its training.
        takes: the clips; of each up to `MAX_SECONDS` count.
    """

    def __init__(self, config: VocoderRunConfig, takes: Takes) -> None:
        self._clips = VocoderDataset(config, takes)
        vocoder = config.vocoder
        self._max_frames = int(MAX_SECONDS * vocoder.sampling_rate / vocoder.hop_size)
        self._mel = log_mel_of(vocoder)
        self._judge = Judge(vocoder.sampling_rate, vocoder.hop_size)

    def __len__(self) -> int:
        """Clips."""
        return len(self._clips.takes.paths)

    @property
    def measure(self) -> str:
        """Of which clips a score is: scores of others cannot be compared with it."""
        takes = self._clips.takes
        facts = [(path.as_posix(), n) for path, n in zip(takes.paths, takes.frames, strict=True)]
        return f"{zlib.crc32(repr(facts).encode('utf-8', 'surrogatepass')):08x}"

    @torch.no_grad()
    def sing(
        self,
        generator: Generator,
        device: torch.device,
        stopping: Callable[[], bool] = never,
    ) -> Iterator[Sung]:
        """Sing every clip from its mel and its F0, with the same noise each time.

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
        for index in range(len(self)):
            if stopping():
                raise StoppedError
            clip = self._clips.whole(index, self._max_frames)
            draws = torch.Generator().manual_seed(_SEED + index)
            wav = generator(clip.mel[None].to(device), clip.f0[None].to(device), generator=draws)
            sung = wav[:, 0].float().cpu()
            recorded = self._judge.listen(clip.wav.numpy(), clip.mel.numpy())
            made = self._judge.listen(sung[0].numpy(), self._mel(sung)[0].numpy())
            yield Sung(index, recorded, made, self._judge.compare(recorded, made))
