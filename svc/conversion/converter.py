"""The conversion engine: one wav in, one wav out, sung by another voice.

`Converter` keeps the models; each call of `Converter.convert` is independent of the ones before it.

How the default path differs from so-vits-svc 4.1 (spec_core 10; `compat=True` gives the original's
arithmetic):

* I4: every stretch is rendered in whole frames and trimmed to the sample, so nothing is shifted,
  padded with zeros or drifts: the result has exactly ceil(T * model rate / input rate) samples.
* I5: cross-fades are counted in output samples.
* I8: arrays of floats travel between the stages; nothing is clipped or quantised on the way.
* Joins: the pads hold the real surroundings of a stretch where the original has zeros,
  neighbouring stretches overlap for some milliseconds, and sound fades to exact silence within
  5 ms. Stretches longer than `max_chunk_seconds` are cut at a quiet place, because the attention's
  memory grows with the square of the length, and because Whisper's units drift with the position
  in its window: the voice knows those of clips up to 15 s.
* M1: pitches above 1103 Hz use the highest pitch embedding instead of wrapping to row 0.
* Input is resampled with soxr; 16 kHz for the speech encoder is made with the windowed sinc of
  the original's inference.
* A file in which nothing is louder than `slice_db` becomes exact silence, however short it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from svc.audio.resample import resample, resampled_length, sinc_resample
from svc.audio.slicer import Segment, Slicer
from svc.conversion.assembly import Assembler
from svc.conversion.chunks import FloatArray, plan_pieces
from svc.conversion.compat import plan_calls, render_calls
from svc.conversion.options import InferOptions
from svc.conversion.speakers import find_speaker
from svc.conversion.voice import Voice, load_voice
from svc.errors import AudioError, ConfigError, DeviceError
from svc.progress import Progress, silent


class Converter:
    """A voice, ready to convert any number of songs.

    Use it as a context manager, or call `close`, to give the memory back.

    Args:
        voice: the models.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice: Voice | None = voice

    @classmethod
    def from_files(
        cls,
        model_path: str | Path,
        config_path: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        f0_predictor: str = "pm",
        f0_min: float = 50.0,
        f0_max: float = 1100.0,
        f0_threshold: float = 0.05,
        encoder_path: str | Path | None = None,
        encoder_precision: str = "fp32",
        pretrain_dir: str | Path = "pretrain",
        compat: bool = False,
    ) -> Converter:
        """Load a voice; whatever is wrong with it is found here, before any audio is read.

        Args:
            model_path: a `G_*.pth`; half-precision files are up-cast to float32.
            config_path: its `config.json`; None = the one beside the model.
            device: "cpu", "cuda", "cuda:1", ...; None = the best there is.
            f0_predictor: pm, dio, harvest or fcpe.
            f0_min: lowest pitch looked for, Hz.
            f0_max: highest pitch looked for, Hz.
            f0_threshold: voicing threshold of the neural predictors.
            encoder_path: weights of the speech encoder, a file or a Hugging Face folder; for two
                fused ones "ID=PATH,ID=PATH". What is not named: as the config says, else the
                default place under `pretrain_dir`.
            encoder_precision: "fp32", or "bf16" or "fp16" for the encoder's matrix products.
            pretrain_dir: folder of downloaded weights.
            compat: cut, join and round as the original does.

        Returns:
            The converter.

        Raises:
            SvcError: a file is missing or damaged, config and checkpoint or encoder do not match,
                an unknown name.
        """
        return cls(
            load_voice(
                model_path,
                config_path,
                device=device,
                f0_predictor=f0_predictor,
                f0_min=f0_min,
                f0_max=f0_max,
                f0_threshold=f0_threshold,
                encoder_path=encoder_path,
                encoder_precision=encoder_precision,
                pretrain_dir=pretrain_dir,
                compat=compat,
            )
        )

    def __enter__(self) -> Converter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the models. Closing twice is fine; converting afterwards is a ValueError."""
        on_gpu = self._voice is not None and self._voice.device.type == "cuda"
        self._voice = None
        if on_gpu:
            torch.cuda.empty_cache()

    @property
    def voice(self) -> Voice:
        """The models."""
        if self._voice is None:
            raise ValueError("this Converter is closed")
        return self._voice

    @property
    def sampling_rate(self) -> int:
        """Rate of the results, Hz."""
        return self.voice.sampling_rate

    @property
    def speakers(self) -> dict[str, int]:
        """Names of the voices and their ids."""
        return dict(self.voice.speakers)

    def check_options(self, options: InferOptions) -> None:
        """Raise ConfigError when the voice lacks what the options ask for."""
        if options.auto_f0 and not self.voice.synthesizer.has_auto_f0:
            raise ConfigError(
                "-a/--auto_predict_f0: this model was trained without an F0 decoder "
                "(use_automatic_f0_prediction is false); run without -a"
            )

    def output_length(self, n_samples: int, sr: int) -> int:
        """Samples that `convert` returns for `n_samples` at `sr` Hz."""
        return resampled_length(n_samples, sr, self.sampling_rate)

    def convert(
        self,
        wav: FloatArray,
        sr: int,
        speaker: str | int,
        options: InferOptions | None = None,
        *,
        progress: Progress | None = None,
    ) -> FloatArray:
        """Sing a song with another voice.

        Args:
            wav: the song, float32 (T,) in [-1, 1]; any T, also 0.
            sr: its rate, Hz.
            speaker: name or id of the target voice.
            options: None = the defaults.
            progress: called after each stretch as ``(done, stretches, "")``.

        Returns:
            float32 (ceil(T * sampling_rate / sr),) at `sampling_rate`; the same input, options and
            device give the same samples. May exceed [-1, 1]. With `compat` the length may differ by
            some samples, as the original's.

        Raises:
            ConfigError: unknown speaker, or an option this voice cannot serve.
            AudioError: the input holds NaN or infinity.
            DeviceError: out of memory.
            SvcError: the model produced NaN.
        """
        options = options or InferOptions()
        if wav.ndim != 1:
            raise ValueError(f"wav must have the shape (T,), found {wav.shape}")
        if sr <= 0:
            raise ValueError(f"sr must be positive, found {sr}")
        _, speaker_id = find_speaker(self.speakers, speaker)
        self.check_options(options)
        wav = np.asarray(wav, dtype=np.float32)
        if not np.isfinite(wav).all():
            raise AudioError("the audio holds NaN or infinite samples; repair or export it again")
        report = progress or silent
        segments = Slicer(sr, threshold_db=options.slice_db).slice(wav) if wav.size else []
        try:
            if self.voice.compat:
                return self._convert_compat(wav, sr, segments, speaker_id, options, report)
            return self._convert(wav, sr, segments, speaker_id, options, report)
        except (RuntimeError, MemoryError) as error:
            # On the CPU torch reports it as a plain RuntimeError of its allocator.
            on_cpu = isinstance(error, MemoryError) or "allocate memory" in str(error)
            if not isinstance(error, torch.OutOfMemoryError) and not on_cpu:
                raise
            raise DeviceError(
                f"out of memory on {self.voice.device}: render shorter stretches with -cl 10, or "
                "choose another device with -d"
            ) from error

    def _convert(
        self,
        wav: FloatArray,
        sr: int,
        segments: Sequence[Segment],
        speaker_id: int,
        options: InferOptions,
        report: Progress,
    ) -> FloatArray:
        voice = self.voice
        assembler = Assembler(self.output_length(wav.size, sr))
        if all(segment.silent for segment in segments):
            return assembler.song
        source = resample(wav, sr, self.sampling_rate)
        if options.max_chunk_seconds is None:
            heard = voice.usual_seconds - 2 * options.pad_seconds
            options = replace(options, max_chunk_seconds=max(1.0, heard))
        pieces = plan_pieces(segments, source, sr, self.sampling_rate, options)
        context = round(options.pad_seconds * self.sampling_rate)
        for done, piece in enumerate(pieces):
            report(done, len(pieces), "")
            begin, length = piece.window(context, voice.hop_length)
            rendered = voice.render(_cut(source, begin, length), speaker_id, options)
            assembler.add(piece, rendered[piece.start - begin : piece.end - begin])
        report(len(pieces), len(pieces), "")
        return assembler.song

    def _convert_compat(
        self,
        wav: FloatArray,
        sr: int,
        segments: Sequence[Segment],
        speaker_id: int,
        options: InferOptions,
        report: Progress,
    ) -> FloatArray:
        voice = self.voice
        calls = plan_calls(segments, sr, voice.sampling_rate, voice.hop_length, options)
        total = sum(not call.silent for call in calls)
        done = 0

        def render(padded: FloatArray, first_frame: int) -> FloatArray:
            nonlocal done
            del first_frame  # speaker mixes along the song need it
            source = sinc_resample(torch.from_numpy(padded), sr, self.sampling_rate).numpy()
            if source.size < voice.hop_length:
                return np.zeros(0, dtype=np.float32)
            rendered = voice.render(source, speaker_id, options)
            done += 1
            report(done, total, "")
            return rendered

        return render_calls(wav, calls, render, sr, self.sampling_rate, options)


def _cut(source: FloatArray, begin: int, length: int) -> FloatArray:
    """Return `source[begin:begin + length]` with zeros where that is outside the song."""
    window = np.zeros(length, dtype=np.float32)
    low, high = max(begin, 0), min(begin + length, source.size)
    window[low - begin : high - begin] = source[low:high]
    return window
