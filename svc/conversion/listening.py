"""What the models are told of a stretch of a song: its content, melody and loudness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from svc.audio.frames import expand_units
from svc.audio.loudness import frame_volume
from svc.audio.pitch import F0Track, transpose
from svc.audio.resample import sinc_resample
from svc.config import check_encoder_width, encoder_paths
from svc.conversion.options import HearingChoice, InferOptions
from svc.conversion.speakers import find_speaker
from svc.conversion.weights_used import encoder_files, predictor_files
from svc.conversion.windows import Window
from svc.errors import ConfigError
from svc.f0 import F0Predictor, build_f0_predictor
from svc.f0.remember import RememberingPredictor
from svc.speech import SpeechEncoder, build_speech_encoder
from svc.speech.locate import check_given

if TYPE_CHECKING:
    from svc.retrieval.base import UnitRetriever

ENCODER_SR = 16000  # Hz, what every speech encoder hears
OWN_ENCODER = "set model.speech_encoder to the one the voice was trained with"


@dataclass(frozen=True)
class Heard:
    """A stretch of n samples and N frames.

    Attributes:
        source: (n,) samples.
        units: (1, U, N) content, drawn towards the target's own where that is asked for.
        f0: (1, N) Hz, transposed.
        uv: (1, N) 1 = voiced.
    """

    source: Tensor
    units: Tensor
    f0: Tensor
    uv: Tensor


@dataclass(frozen=True)
class Listener:
    """Listens to stretches for a voice.

    Attributes:
        encoder: the speech encoder the voice was trained with.
        f0_predictor: melody detector; None where every song comes with a pitch curve.
        device: where what was heard is needed.
        speakers: name -> id.
        sampling_rate: Hz.
        hop_length: samples per frame.
        unit_interpolate_mode: how units are stretched to frames (spec_core 5.4).
        compat: with the slips of so-vits-svc 4.1.
        retriever: clusters or index of the voice's own units.
    """

    encoder: SpeechEncoder
    f0_predictor: F0Predictor | None
    device: torch.device
    speakers: Mapping[str, int]
    sampling_rate: int
    hop_length: int
    unit_interpolate_mode: str
    compat: bool = False
    retriever: UnitRetriever | None = None

    def check_options(self, options: InferOptions, singers: Mapping[str, int]) -> None:
        """Raise ConfigError when there are no clusters or index for what the options ask."""
        if options.cluster_ratio == 0:
            return
        if self.retriever is None:
            raise ConfigError(
                f"-cr/--cluster_infer_ratio is {options.cluster_ratio:g} and no clusters or index "
                "are loaded: name the file with -cm"
            )
        for name, speaker_id in singers.items():
            if name not in self.retriever.speakers and speaker_id not in self.retriever.speakers:
                known = ", ".join(sorted(map(str, self.retriever.speakers)))
                raise ConfigError(
                    f'-cm/--cluster_model_path: the file knows {known}, not "{name}" '
                    f"(id {speaker_id}); make it again with this voice's data set, or run without -cr"
                )

    def hear_many(
        self, windows: Sequence[Window], speaker: int, options: InferOptions
    ) -> list[Heard]:
        """Listen to several stretches; arguments as of `Backend.render_many`.

        Melodies come with the windows, or are asked for together; units are encoded together, in
        batches that suit the encoder. A stretch is heard as if alone, the rounding of its units apart:
        one unit in a million may find another of two neighbours that are equally near.
        """
        tracks = self._tracks(windows)
        sources = [torch.from_numpy(window.wav).to(self.device) for window in windows]
        return [
            self._heard(window, source, units, track, speaker, options)
            for window, source, units, track in zip(windows, sources, self.encode(sources), tracks)
        ]

    def _tracks(self, windows: Sequence[Window]) -> list[F0Track]:
        """Melodies of all windows; what none came with is asked of the predictor."""
        without = [window.wav for window in windows if window.track is None]
        if without and self.f0_predictor is None:
            raise ValueError("this voice has no F0 predictor: give a pitch curve")
        found: list[F0Track] = []
        if len(without) == 1 and self.f0_predictor is not None:
            found = [self.f0_predictor(without[0])]
        elif without and self.f0_predictor is not None:
            found = self.f0_predictor.track_batch(without)
        ahead = iter(found)
        return [next(ahead) if window.track is None else window.track for window in windows]

    def _heard(
        self,
        window: Window,
        source: Tensor,
        units: Tensor,
        track: F0Track,
        speaker: int,
        options: InferOptions,
    ) -> Heard:
        """Put units (1, U, S) on the frames of the melody, drawn towards the voice's own."""
        f0 = torch.from_numpy(transpose(track.f0, options.transpose)).float().to(self.device)[None]
        uv = torch.from_numpy(track.uv).to(self.device)[None]
        ratio = options.cluster_ratio
        if self.retriever is None or ratio == 0 or window.weights is not None:
            return Heard(source, self._stretch(units, uv), f0, uv)
        # Searched at the encoder's rate, and what is found is stretched like what was heard: to copy
        # after the search equals searching the copies (spec_cluster_index C12).
        name = find_speaker(self.speakers, speaker)[0]
        rows = units[0].t().float().contiguous()
        found = self.retriever.match(rows, name, speaker).t()[None].to(units.dtype)
        share = ratio * (1 - options.protect * (1 - uv))[:, None].to(units.dtype)
        units, found = self._stretch(units, uv), self._stretch(found, uv)
        return Heard(source, units + share * (found - units), f0, uv)

    def encode(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """Units (1, U, S) of each wave, samples (n,) at the voice's rate; at the encoder's frame rate."""
        heard = [
            sinc_resample(wav, self.sampling_rate, ENCODER_SR).to(self.encoder.device)
            for wav in wavs
        ]
        if len(heard) == 1:
            return [self.encoder.encode(heard[0]).to(self.device)]
        return [units.to(self.device) for units in self.encoder.encode_batch(heard)]

    def encode_again(self, wavs: Sequence[Tensor], uvs: Sequence[Tensor]) -> list[Tensor]:
        """Units (1, U, N) of waves that the voice has made, on the frames of each uv (1, N)."""
        return [self._stretch(units, uv) for units, uv in zip(self.encode(wavs), uvs)]

    def volume(self, wav: Tensor) -> Tensor:
        """Loudness (1, N) of samples (n,)."""
        return frame_volume(wav[None], self.hop_length)

    def _stretch(self, units: Tensor, uv: Tensor) -> Tensor:
        mode = self.unit_interpolate_mode
        return expand_units(units, uv.shape[-1], mode, compat=self.compat)


@dataclass(frozen=True)
class HearingFacts:
    """What a config says about how its voice listens.

    Attributes:
        encoder: id of the speech encoder, or two fused ones.
        units_dim: U.
        encoder_path: where the config says its weights are; None = it does not say.
        where: the config, for messages.
        speakers: name -> id.
        sampling_rate: Hz.
        hop_length: samples per frame.
        unit_interpolate_mode: how units are stretched to frames.
    """

    encoder: str
    units_dim: int
    encoder_path: str | None
    where: str
    speakers: Mapping[str, int]
    sampling_rate: int
    hop_length: int
    unit_interpolate_mode: str

    def check(self, choice: HearingChoice) -> dict[str, Path]:
        """Check the encoder's width and the files that are named for it, before any net is loaded.

        Default files are looked for later: where the config is not the checkpoint's, it is no use
        to ask for the encoder that the config names.

        Returns:
            Files by id of the encoder.

        Raises:
            SvcError: width and id differ, or a file is not there.
        """
        check_encoder_width(self.encoder, self.units_dim, where=self.where, advice=OWN_ENCODER)
        given = None if choice.encoder_path is None else str(choice.encoder_path)
        own = {
            **encoder_paths(self.encoder, self.encoder_path, what='"model.encoder_path"'),
            **encoder_paths(self.encoder, given),
        }
        check_given(self.encoder, own)
        return own


def load_predictor(
    facts: HearingFacts, choice: HearingChoice, device: torch.device
) -> F0Predictor | None:
    """Make the melody detector, or None where none is chosen. Raises SvcError."""
    if choice.f0_predictor is None:
        return None
    predictor = build_f0_predictor(
        choice.f0_predictor,
        sampling_rate=facts.sampling_rate,
        hop_length=facts.hop_length,
        f0_min=choice.f0_min,
        f0_max=choice.f0_max,
        threshold=choice.f0_threshold,
        device=device,
        pretrain_dir=Path(choice.pretrain_dir),
        compat=choice.compat,
    )
    if choice.cache is not None:
        files = predictor_files(predictor.name, Path(choice.pretrain_dir))
        predictor = choice.cache.predictor(predictor, files, device)
    return RememberingPredictor(predictor)


def load_timbre(
    facts: HearingFacts, choice: HearingChoice, device: torch.device
) -> UnitRetriever | None:
    """Load clusters or index, or return None where none are chosen. Raises SvcError."""
    if choice.cluster_path is None:
        return None
    from svc.retrieval.base import load_retriever

    return load_retriever(
        Path(choice.cluster_path),
        dim=facts.units_dim,
        device=device,
        encoder=facts.encoder,
        k=choice.index_k,
        nprobe=choice.index_nprobe,
    )


def load_encoder(
    facts: HearingFacts, choice: HearingChoice, device: torch.device, own: Mapping[str, Path]
) -> SpeechEncoder:
    """Load the speech encoder from the files of `HearingFacts.check`. Raises SvcError."""
    files = encoder_files(facts.encoder, own, Path(choice.pretrain_dir)) if choice.cache else []
    if choice.cache is not None:
        choice.cache.expect(files)
    encoder = build_speech_encoder(
        facts.encoder,
        device=device,
        path=own,
        pretrain_dir=Path(choice.pretrain_dir),
        precision=choice.encoder_precision,
    )
    if choice.cache is None:
        return encoder
    return choice.cache.encoder(encoder, files, choice.encoder_precision)
