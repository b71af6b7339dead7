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
* A file in which nothing is louder than `slice_db` becomes exact silence, however short it is; and
  where the song stays below -80 dBFS for a tenth of a second, the result is exact silence too, but
  for fades of 20 ms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from svc.audio.pitch import F0Track
from svc.audio.resample import resampled_length
from svc.conversion.backend import Backend, loading_told
from svc.conversion.chunks import FloatArray
from svc.conversion.compute import ComputeChoice
from svc.conversion.key import KeyFit, fit_key, range_of
from svc.conversion.options import (
    DiffusionChoice,
    HearingChoice,
    InferOptions,
    check_enhancer,
)
from svc.conversion.sources import ArraySource, SongSource
from svc.conversion.speaker_mix import SpeakerMix
from svc.conversion.speakers import find_speaker
from svc.conversion.stretches import Song, render_song
from svc.conversion.survey import Survey, survey_song
from svc.conversion.windows import Window
from svc.errors import ConfigError
from svc.f0.curve import FrameGrid, fit_length
from svc.f0.voice_range import Pitches
from svc.progress import Progress, silent

KEPT_KERNELS = 64
"""Compiled convolutions that oneDNN keeps on a CPU: those of one or two lengths of a stretch."""


class Converter:
    """A voice, ready to convert any number of songs.

    Use it as a context manager, or call `close`, to give the memory back.

    Args:
        voice: the models.
    """

    def __init__(self, voice: Backend) -> None:
        self._voice: Backend | None = voice

    @classmethod
    @loading_told()
    def from_files(
        cls,
        model_path: str | Path | None,
        config_path: str | Path | None = None,
        choice: HearingChoice | None = None,
        *,
        diffusion: DiffusionChoice | None = None,
        enhancer: Path | None = None,
        compute: ComputeChoice | None = None,
    ) -> Converter:
        """Load a voice; whatever is wrong with it is found here, before any audio is read.

        Args:
            model_path: a `G_*.pth`; half-precision files are up-cast to float32. Or the folder that
                ``svc onnx-export --profile full`` has written, with the back end "onnx" or "auto":
                that does without torch. None = the diffusion model sings alone.
            config_path: its `config.json`; None = the one beside the model.
            choice: how it listens, and where it computes; None = the defaults.
            diffusion: a diffusion model that goes over the result (shallow diffusion), or sings
                alone.
            enhancer: weights of the vocoder that sings the result again; not with diffusion, which
                has a vocoder of its own.
            compute: how its nets are computed; None = by torch, in float32.

        Returns:
            The converter.

        Raises:
            SvcError: a file is missing or damaged, config and checkpoint or encoder do not match,
                an unknown name.
            DeviceError: the models do not fit into the memory.
        """
        # By itself oneDNN keeps the kernels of 1024 convolutions, and those of every length of a stretch
        # are others: after a minute of song they were 1.6 GB, and as many more with every minute.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_KERNELS))
        choice = choice or HearingChoice()
        compute = compute or ComputeChoice()
        exported = compute.sings_export(model_path)
        if enhancer is not None:
            check_enhancer(exported=exported, diffuses=diffusion is not None)
        if model_path is not None and exported:
            from svc.conversion.onnx_voice import load_onnx_voice

            return cls(load_onnx_voice(Path(model_path), choice, diffusion=diffusion))
        if model_path is None:
            from svc.conversion.diffusion_voice import load_diffusion_voice

            if diffusion is None:
                raise ValueError("neither a voice nor a diffusion model is given")
            return cls(load_diffusion_voice(diffusion, choice, compute))
        from svc.conversion.voice import load_voice

        return cls(
            load_voice(
                model_path,
                config_path,
                choice,
                diffusion=diffusion,
                enhancer=enhancer,
                compute=compute,
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
        if self._voice is None:
            return
        give_back = self._voice.give_back
        self._voice = None  # before: only what nothing refers to is given back
        give_back()

    @property
    def voice(self) -> Backend:
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

    def check_options(
        self, options: InferOptions, speaker: str | int | SpeakerMix | None = None
    ) -> None:
        """Raise ConfigError when the voice, or who is to sing, lacks what the options ask for."""
        singers: dict[str, int] = {}
        if isinstance(speaker, SpeakerMix):
            named = zip(speaker.speakers, speaker.tracks)
            singers = {name: row for row, (name, track) in enumerate(named) if name and track}
        elif speaker is not None:
            singers = dict([find_speaker(self.speakers, speaker)])
        if isinstance(speaker, SpeakerMix) and options.cluster_ratio > 0:
            raise ConfigError(
                "-cr/--cluster_infer_ratio and -usm/--use_spk_mix: clusters and index belong to one "
                "speaker and a mix has several; leave one of them out"
            )
        self.voice.check_options(options, singers)

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
        speaker: str | int | SpeakerMix,
        options: InferOptions | None = None,
        *,
        f0: F0Track | None = None,
        progress: Progress | None = None,
    ) -> FloatArray:
        """Sing a song with another voice.

        Args:
            wav: the song, float32 (T,) in [-1, 1]; any T, also 0.
            sr: its rate, Hz.
            speaker: name or id of the target voice, or a mix of several along the song.
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
        if wav.ndim != 1:
            raise ValueError(f"wav must have the shape (T,), found {wav.shape}")
        source = ArraySource(np.asarray(wav, dtype=np.float32), sr)
        parts = self.stream(source, speaker, options, f0=f0, progress=progress)
        if self.voice.compat:
            return next(parts, np.zeros(0, dtype=np.float32))
        song = np.empty(self.output_length(wav.size, sr), dtype=np.float32)
        done = 0
        for part in parts:
            song[done : done + part.size] = part
            done += part.size
        return song

    def stream(
        self,
        source: SongSource,
        speaker: str | int | SpeakerMix,
        options: InferOptions | None = None,
        *,
        f0: F0Track | None = None,
        survey: Survey | None = None,
        progress: Progress | None = None,
        on_melody: Callable[[F0Track], None] | None = None,
    ) -> Generator[FloatArray, None, None]:
        """Sing a song of any length with another voice, part by part.

        Memory does not grow with the song, but for 4 bytes for each of its levels, every 20 ms, and
        12 bytes for each frame of its pitch that the predictor remembers. With `compat` the whole
        song is in memory.

        Args:
            source: the song; it is read twice, and once more where `options.fit_to_voice` asks for
                its key.
            speaker: as for `convert`.
            options: as for `convert`.
            f0: as for `convert`.
            survey: of `source`, made with ``options.slice_db`` (`Surveyor`, `survey_song`); None =
                it is made here, before this returns.
            progress: as for `convert`.
            on_melody: called with the track of each window that was sung, what `fit_key` can use.

        Returns:
            Consecutive parts of the result, float32 (n,), n > 0, at `sampling_rate`; together what
            `convert` returns for the whole, bit for bit, however the source cuts its blocks. What
            is wrong with the arguments is raised by this call, the rest on the way. Close the
            iterator where not all of it is wanted; it holds the voice until then.

        Raises:
            As `convert`; AudioError also where the song changes while it is read.
        """
        options = options or InferOptions()
        speaker_id, mix = self._who(speaker)
        self.check_options(options, speaker)
        song = self._song(source, options, f0, survey, mix)
        if isinstance(speaker, SpeakerMix):  # also one of whom only one sings
            speaker.require_length(song.survey.n_samples / source.sr)
        if options.fit_to_voice != "no":
            fit = self.fit_key(source, speaker, options, f0=f0, survey=song.survey)
            options = fit.options
        sung = options  # what the nested function sees stays what it is here

        def render(windows: Sequence[Window]) -> list[FloatArray]:
            made = self.voice.render_many(windows, speaker_id, sung)
            if on_melody is not None:
                for track in self._heard(windows):  # remembered, so nothing is heard again
                    on_melody(track)
            return made

        return render_song(self.voice, song, options, render, progress or silent)

    def fit_key(
        self,
        source: SongSource,
        speaker: str | int | SpeakerMix,
        options: InferOptions,
        *,
        f0: F0Track | None = None,
        survey: Survey | None = None,
        heard: Iterable[F0Track] | None = None,
    ) -> KeyFit:
        """Choose the transposition of a song, or look at the one that is given.

        What the predictor hears of the song is remembered, so that singing it afterwards does not
        listen again.

        Args:
            source: the song, as for `stream`; `ArraySource` makes one of an array.
            speaker: name or id of the target voice, or a mix.
            options: `fit_to_voice` says what there is to choose.
            f0: its pitch curve, as for `convert`.
            survey: as for `stream`.
            heard: what `stream` called `on_melody` with, in place of listening to the song.

        Returns:
            The options to sing it with, and what there is to tell.

        Raises:
            ConfigError: there is something to choose, and the range of this voice is not known.
            SvcError: as `stream`.
        """
        needed = options.fit_to_voice != "no"
        if isinstance(speaker, SpeakerMix) and survey is None:
            survey = survey_song(source, options.slice_db)  # its range depends on the song's length
        n_samples = 0 if survey is None else survey.n_samples
        name, voice = range_of(self.voice, speaker, n_samples / source.sr, needed=needed)
        if voice is None or options.auto_f0:
            return KeyFit(options)
        song = self._song(source, options, f0, survey)
        tracks = [song.f0] if song.f0 is not None else []
        if song.f0 is None and heard is None:

            def listen(windows: Sequence[Window]) -> list[FloatArray]:
                tracks.extend(self._heard(windows))
                hop = self.voice.hop_length
                return [np.zeros(w.wav.size // hop * hop, dtype=np.float32) for w in windows]

            for _ in render_song(self.voice, song, options, listen, silent, listens_ahead=False):
                pass
        pitches = Pitches.of(tracks if heard is None else heard, self.grid.frame_seconds)
        return fit_key(pitches, voice, name, options)

    def _heard(self, windows: Sequence[Window]) -> list[F0Track]:
        """Tracks of windows: those that they have, else what the predictor hears."""
        predictor = self.voice.f0_predictor
        if predictor is None or any(window.track is not None for window in windows):
            return [window.track for window in windows if window.track is not None]
        if len(windows) > 1:
            return predictor.track_batch([window.wav for window in windows])
        return [predictor(window.wav) for window in windows]

    def _who(self, speaker: str | int | SpeakerMix) -> tuple[int, SpeakerMix | None]:
        """Find id and mix of who sings; the id counts where there is no mix."""
        if not isinstance(speaker, SpeakerMix):
            return find_speaker(self.speakers, speaker)[1], None
        if speaker.only is not None:
            return speaker.only, None
        return 0, speaker

    def _song(
        self,
        source: SongSource,
        options: InferOptions,
        f0: F0Track | None,
        survey: Survey | None,
        mix: SpeakerMix | None = None,
    ) -> Song:
        """Check a song and its curve; the curve becomes as long as the song."""
        if source.sr <= 0:
            raise ValueError(f"sr must be positive, found {source.sr}")
        if f0 is not None and options.auto_f0:
            raise ConfigError(
                "a pitch curve is given and -a/--auto_predict_f0 too; choose one of them"
            )
        if f0 is None and self.voice.f0_predictor is None:
            raise ConfigError(
                "this voice was loaded without an F0 predictor: give a pitch curve (--f0), or load "
                "it with a predictor (-f0p)"
            )
        survey = survey or survey_song(source, options.slice_db)
        if f0 is not None:
            n_frames = self.output_length(survey.n_samples, source.sr) // self.voice.hop_length
            f0 = fit_length(f0, n_frames, self.grid, what="the pitch curve")
        return Song(source, survey, f0, mix)
