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

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from svc.audio.pitch import F0Track
from svc.audio.resample import resample, resampled_length, sinc_resample
from svc.audio.slicer import Segment, Slicer
from svc.conversion.assembly import Assembler
from svc.conversion.chunks import FloatArray, plan_pieces
from svc.conversion.compat import Call, plan_calls, render_calls
from svc.conversion.key import KeyFit, fit_key, unknown_range
from svc.conversion.options import InferOptions
from svc.conversion.speakers import find_speaker
from svc.conversion.voice import Voice, load_voice
from svc.errors import AudioError, ConfigError, DeviceError
from svc.f0.curve import FrameGrid, cut, cut_at, fit_length
from svc.f0.voice_range import Pitches
from svc.progress import Progress, silent

Render = Callable[[FloatArray, F0Track | None], FloatArray]
"""``render(window (n,), track or None) -> wav (n // hop_length * hop_length,)``, at the model's rate.
"""


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
        f0_predictor: str | None = "pm",
        f0_min: float = 50.0,
        f0_max: float = 1100.0,
        f0_threshold: float | None = None,
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
            f0_predictor: an id of `svc.f0`; None = none is loaded, every song comes with a pitch
                curve.
            f0_min: lowest pitch looked for, Hz.
            f0_max: highest pitch looked for, Hz.
            f0_threshold: voicing threshold of the neural predictors; None = the usual one of each.
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

    @property
    def grid(self) -> FrameGrid:
        """Where the frames of a song's pitch curve lie."""
        return FrameGrid(self.sampling_rate, self.voice.hop_length)

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
        f0: F0Track | None = None,
        progress: Progress | None = None,
    ) -> FloatArray:
        """Sing a song with another voice.

        Args:
            wav: the song, float32 (T,) in [-1, 1]; any T, also 0.
            sr: its rate, Hz.
            speaker: name or id of the target voice.
            options: None = the defaults.
            f0: pitch curve of the whole song on `grid`, which is sung instead of what the predictor
                hears; `options.transpose` is added to it. Its frames are used as they are, those
                of unvoiced parts included.
            progress: called after each stretch as ``(done, stretches, "")``.

        Returns:
            float32 (ceil(T * sampling_rate / sr),) at `sampling_rate`; the same input, options and
            device give the same samples. May exceed [-1, 1]. With `compat` the length may differ by
            some samples, as the original's.

        Raises:
            ConfigError: unknown speaker, or an option this voice cannot serve.
            AudioError: the input holds NaN or infinity.
            CurveError: the curve is not as long as the song.
            DeviceError: out of memory.
            SvcError: the model produced NaN.
        """
        options = options or InferOptions()
        _, speaker_id = find_speaker(self.speakers, speaker)
        self.check_options(options)
        wav, f0 = self._checked(wav, sr, options, f0)
        if options.fit_to_voice != "no":
            options = self.fit_key(wav, sr, speaker, options, f0=f0).options

        def render(window: FloatArray, track: F0Track | None) -> FloatArray:
            return self.voice.render(window, speaker_id, options, track)

        return self._through(wav, sr, options, f0, render, progress or silent)

    def fit_key(
        self,
        wav: FloatArray,
        sr: int,
        speaker: str | int,
        options: InferOptions,
        *,
        f0: F0Track | None = None,
    ) -> KeyFit:
        """Choose the transposition of a song, or look at the one that is given.

        What the predictor hears of the song is remembered, so that singing it afterwards does not
        listen again.

        Args:
            wav: the song, as for `convert`.
            sr: its rate, Hz.
            speaker: name or id of the target voice.
            options: `fit_to_voice` says what there is to choose.
            f0: its pitch curve, as for `convert`.

        Returns:
            The options to sing it with, and what there is to tell.

        Raises:
            ConfigError: there is something to choose, and the range of this voice is not known.
            SvcError: as `convert`.
        """
        name, _ = find_speaker(self.speakers, speaker)
        voice = self.voice.ranges.get(name)
        if voice is None and options.fit_to_voice != "no":
            raise unknown_range(name)
        if voice is None or options.auto_f0:
            return KeyFit(options)
        wav, f0 = self._checked(wav, sr, options, f0)
        tracks = [f0] if f0 is not None else []

        def listen(window: FloatArray, track: F0Track | None) -> FloatArray:
            if track is None and self.voice.f0_predictor is not None:
                tracks.append(self.voice.f0_predictor(window))
            return np.zeros(window.size // self.voice.hop_length * self.voice.hop_length, "f4")

        if f0 is None:
            self._through(wav, sr, options, None, listen, silent)
        song = Pitches.of(tracks, self.grid.frame_seconds)
        return fit_key(song, voice, name, options)

    def _checked(
        self, wav: FloatArray, sr: int, options: InferOptions, f0: F0Track | None
    ) -> tuple[FloatArray, F0Track | None]:
        """Check a song and its curve; returns float32 samples, and the curve as long as they."""
        if wav.ndim != 1:
            raise ValueError(f"wav must have the shape (T,), found {wav.shape}")
        if sr <= 0:
            raise ValueError(f"sr must be positive, found {sr}")
        wav = np.asarray(wav, dtype=np.float32)
        if not np.isfinite(wav).all():
            raise AudioError("the audio holds NaN or infinite samples; repair or export it again")
        if f0 is not None:
            if options.auto_f0:
                raise ConfigError(
                    "a pitch curve is given and -a/--auto_predict_f0 too; choose one of them"
                )
            n_frames = self.output_length(wav.size, sr) // self.voice.hop_length
            f0 = fit_length(f0, n_frames, self.grid, what="the pitch curve")
        return wav, f0

    def _through(
        self,
        wav: FloatArray,
        sr: int,
        options: InferOptions,
        f0: F0Track | None,
        render: Render,
        report: Progress,
    ) -> FloatArray:
        """Go through the stretches of a checked song; returns what `render` made of them."""
        segments = Slicer(sr, threshold_db=options.slice_db).slice(wav) if wav.size else []
        try:
            if self.voice.compat:
                return self._convert_compat(wav, sr, segments, options, f0, render, report)
            return self._convert(wav, sr, segments, options, f0, render, report)
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
        options: InferOptions,
        f0: F0Track | None,
        render: Render,
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
            track = None
            if f0 is not None:
                track = cut(f0, begin // voice.hop_length, length // voice.hop_length)
            rendered = render(_cut(source, begin, length), track)
            assembler.add(piece, rendered[piece.start - begin : piece.end - begin])
        report(len(pieces), len(pieces), "")
        return assembler.song

    def _convert_compat(
        self,
        wav: FloatArray,
        sr: int,
        segments: Sequence[Segment],
        options: InferOptions,
        f0: F0Track | None,
        render: Render,
        report: Progress,
    ) -> FloatArray:
        voice = self.voice
        calls = plan_calls(segments, sr, voice.sampling_rate, voice.hop_length, options)
        voiced = [call for call in calls if not call.silent]
        ahead = iter(voiced)
        done = 0

        def render_call(padded: FloatArray, first_frame: int) -> FloatArray:
            nonlocal done
            del first_frame  # speaker mixes along the song need it
            call = next(ahead)
            source = sinc_resample(torch.from_numpy(padded), sr, self.sampling_rate).numpy()
            if source.size < voice.hop_length:
                return np.zeros(0, dtype=np.float32)
            n_frames = source.size // voice.hop_length
            track = None if f0 is None else _cut_call(f0, call, n_frames, sr, self.grid)
            rendered = render(source, track)
            done += 1
            report(done, len(voiced), "")
            return rendered

        return render_calls(wav, calls, render_call, sr, self.sampling_rate, options)


def _cut(source: FloatArray, begin: int, length: int) -> FloatArray:
    """Return `source[begin:begin + length]` with zeros where that is outside the song."""
    window = np.zeros(length, dtype=np.float32)
    low, high = max(begin, 0), min(begin + length, source.size)
    window[low - begin : high - begin] = source[low:high]
    return window


def _cut_call(f0: F0Track, call: Call, n_frames: int, sr: int, grid: FrameGrid) -> F0Track:
    """Take the frames of the song's curve that are nearest in time to those of a call; there are
    none in the zeros around it.
    """
    seconds = np.arange(n_frames) * grid.frame_seconds + (call.start - call.pad) / sr
    track = cut_at(f0, np.rint(seconds / grid.frame_seconds).astype(np.int64))
    inside = (seconds >= call.start / sr) & (seconds < call.end / sr)
    return F0Track(track.f0, track.uv * inside)
