"""A voice that was exported to ONNX, and what it makes of one stretch of audio. No torch.

Its random numbers come from numpy: the detail of a breath differs from that of the torch back end
as between two seeds, and is the same on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svc.audio.frames import expand_units_array
from svc.audio.loudness import frame_volume_array, match_envelope_array
from svc.audio.pitch import F0Track, transpose
from svc.audio.resample import sinc_resample_array
from svc.config import check_f0_predictor, ensemble_members
from svc.config.bundle import ENCODER, F0_DECODER, SYNTHESIZER, Bundle, f0_graph, read_bundle
from svc.conversion.backend import OneWindow
from svc.conversion.cached_hearing import Runs
from svc.conversion.chunks import FloatArray
from svc.conversion.compute import Computing
from svc.conversion.onnx_parts import (
    Graph,
    GraphRefiner,
    draw_source,
    load_graph_predictor,
    load_graph_refiner,
)
from svc.conversion.options import DiffusionChoice, HearingChoice, InferOptions
from svc.conversion.protection import protect
from svc.conversion.speakers import find_speaker
from svc.conversion.windows import Window
from svc.errors import ConfigError, SvcError
from svc.f0 import F0Predictor, build_f0_predictor
from svc.f0.ensemble import EnsemblePredictor
from svc.f0.range_files import parse_ranges
from svc.f0.remember import RememberingPredictor
from svc.f0.settings import F0Settings
from svc.f0.swift import swift_asset
from svc.f0.voice_range import VoiceRange

if TYPE_CHECKING:
    from svc.retrieval.index import FeatureIndex

_WITHOUT_NETS = ("pm", "dio", "harvest", "swift")


@dataclass(frozen=True)
class OnnxVoice(OneWindow):
    """The graphs of a voice; a `Backend`.

    Attributes:
        bundle: the manifest.
        encoder: 16 kHz samples -> units.
        synthesizer: units, pitch and random numbers -> samples.
        f0_decoder: units -> the voice's own pitch; None where it has none.
        f0_predictor: melody detector; None where every song comes with a pitch curve.
        index: retrieval index of the voice's own units.
        refiner: diffusion model and vocoder that go over the result.
        ranges: which notes each speaker sings, of those for whom that is known.
        where: the device, for messages.
    """

    bundle: Bundle
    encoder: Runs
    synthesizer: Graph
    f0_decoder: Graph | None
    f0_predictor: F0Predictor | None
    index: FeatureIndex | None
    refiner: GraphRefiner | None
    ranges: Mapping[str, VoiceRange]
    where: str = "cpu"
    compat: bool = False

    @property
    def computing(self) -> Computing:
        """How its nets are computed."""
        return Computing("onnx")

    @property
    def speakers(self) -> Mapping[str, int]:
        """Name -> id."""
        return self.bundle.speakers

    @property
    def sampling_rate(self) -> int:
        """Rate of what is rendered, Hz."""
        return self.bundle.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.bundle.hop_length

    @property
    def usual_seconds(self) -> float:
        """Longest stretch whose units are like those of training clips."""
        return self.bundle.encoder.usual_seconds

    def check_options(self, options: InferOptions, singers: Mapping[str, int]) -> None:
        """Raise ConfigError when the voice lacks what the options ask for."""
        if options.auto_f0 and self.f0_decoder is None:
            raise ConfigError(
                "-a/--auto_predict_f0: this voice was trained without an F0 decoder; run without -a"
            )
        if options.cluster_ratio > 0:
            if self.index is None:
                raise ConfigError(
                    f"-cr/--cluster_infer_ratio is {options.cluster_ratio:g} and no index is loaded: "
                    "name it with -cm"
                )
            for name, speaker_id in singers.items():
                if speaker_id not in self.index.speakers:
                    raise ConfigError(
                        f'-cm/--cluster_model_path: the index has no "{name}" (id {speaker_id}); build '
                        "it again with  svc train-index"
                    )
        if self.refiner is not None:
            self.refiner.check_options(options, singers)

    @property
    def batch_frames(self) -> int:
        """See `Backend.batch_frames`."""
        return 0

    def render_many(
        self, windows: Sequence[Window], speaker: int, options: InferOptions
    ) -> list[FloatArray]:
        """Convert several stretches, one after the other; see `Backend.render_many`."""
        return [
            self._render(
                window.wav,
                speaker if window.weights is None else window.weights,
                options,
                window.track,
            )
            for window in windows
        ]

    def _render(
        self,
        window: FloatArray,
        speaker: int | FloatArray,
        options: InferOptions,
        track: F0Track | None = None,
    ) -> FloatArray:
        if track is None:
            if self.f0_predictor is None:
                raise ValueError("this voice has no F0 predictor: give a pitch curve")
            track = self.f0_predictor(window)
        sr, hop = self.sampling_rate, self.hop_length
        f0 = transpose(track.f0, options.transpose).astype(np.float32)
        units = self._units(window, track.uv, speaker, options)
        random = np.random.Generator(np.random.PCG64(options.seed))
        noise = random.standard_normal((1, self.bundle.inter_channels, f0.size), dtype=np.float32)
        phase, source = draw_source(random, f0.size * hop, self.bundle.n_harmonics)
        weights = self._weights(speaker)
        volume = frame_volume_array(window, hop) if self.bundle.has_volume else None
        told = {"units": units[None], "uv": track.uv[None], "speaker_mix": weights}
        if volume is not None:
            told["volume"] = volume[None]
        if options.auto_f0 and self.f0_decoder is not None:
            f0 = self.f0_decoder.run(f0=f0[None], **told)[0][0]
        (made,) = self.synthesizer.run(
            f0=f0[None],
            noise=noise,
            noise_scale=np.array([options.noise_scale], dtype=np.float32),
            source_phase=phase,
            source_noise=source,
            **told,
        )
        wav: FloatArray = made.reshape(-1)
        if self.refiner is not None:
            if options.second_encoding:
                heard = self._encode(wav)
                units = expand_units_array(heard, f0.size, self.bundle.unit_interpolate_mode)
            loud = frame_volume_array(wav, hop) if volume is None else volume
            wav = self.refiner.refine(wav, units, f0, loud, weights, options, random)
        if options.loudness_envelope != 1.0:
            wav = match_envelope_array(window, sr, wav, sr, options.loudness_envelope)
        if not np.isfinite(wav).all():
            raise SvcError("the exported voice produced NaN: export an earlier checkpoint")
        return protect(wav, window, track.uv, hop, sr, options)

    @property
    def give_back(self) -> Callable[[], None]:
        """Nothing to do: a session goes with its last user."""
        return lambda: None

    def _weights(self, speaker: int | FloatArray) -> FloatArray:
        """Return a mix for the graph: (1, S) of one speaker, (N, S) of several."""
        rows = 1 if isinstance(speaker, int) else len(speaker)
        table = np.zeros((rows, self.bundle.n_speakers), dtype=np.float32)
        if isinstance(speaker, int):
            table[:, speaker] = 1.0
        else:
            table[:, : speaker.shape[1]] = speaker
        return table

    def _units(
        self,
        window: FloatArray,
        uv: FloatArray,
        speaker: int | FloatArray,
        options: InferOptions,
    ) -> FloatArray:
        """Units (U, N), drawn towards the voice's own where that is asked for."""
        heard = self._encode(window)
        mode = self.bundle.unit_interpolate_mode
        units = expand_units_array(heard, uv.size, mode)
        ratio = options.cluster_ratio
        if self.index is None or ratio == 0 or not isinstance(speaker, int):
            return units
        name = find_speaker(self.speakers, speaker)[0]
        found = self.index.match_numpy(np.ascontiguousarray(heard.T), name, speaker)
        own = expand_units_array(np.ascontiguousarray(found.T), uv.size, mode)
        share = (ratio * (1 - options.protect * (1 - uv))).astype(np.float32)
        mixed: FloatArray = units + share * (own - units)
        return mixed

    def _encode(self, wav: FloatArray) -> FloatArray:
        """Units (U, S) of samples at the voice's rate."""
        facts = self.bundle.encoder
        heard = sinc_resample_array(wav, self.sampling_rate, facts.sampling_rate)
        if heard.size > facts.most_samples:
            longest = facts.most_samples / facts.sampling_rate
            raise ConfigError(
                f"a stretch of {heard.size / facts.sampling_rate:.1f} s is longer than the exported "
                f"encoder hears at once ({longest:.1f} s): run without --max_chunk and -cl, or with -p "
                "shorter"
            )
        heard = np.pad(heard, (0, max(0, facts.least_samples - heard.size)))
        units: FloatArray = self.encoder.run(wav=heard[None])[0][0]
        return units


def load_onnx_voice(
    folder: Path, choice: HearingChoice, *, diffusion: DiffusionChoice | None = None
) -> OnnxVoice:
    """Load an exported voice.

    Args:
        folder: what ``svc onnx-export --profile full`` has written.
        choice: how it listens, and where it computes.
        diffusion: go over the result with the diffusion model that was exported along.

    Raises:
        ConfigError: something asked for was not exported, or needs torch.
        SvcError: a file is missing or damaged.
    """
    if choice.compat:
        raise ConfigError("--compat needs --backend torch: graphs compute in one way only")
    if choice.encoder_path is not None:
        raise ConfigError("--encoder_path: an exported voice carries its encoder; leave it out")
    if choice.encoder_precision != "fp32":
        raise ConfigError("--encoder_precision: an exported voice computes in fp32; leave it out")
    bundle = read_bundle(folder)
    device = "cpu" if choice.device is None else str(choice.device)
    device = "cpu" if device == "auto" else device
    predictor = _predictor(folder, bundle, choice, device)
    index = None
    if choice.cluster_path is not None:
        from svc.retrieval.index import load_index

        index = load_index(
            choice.cluster_path,
            dim=bundle.units_dim,
            device="cpu",
            encoder=bundle.encoder.id,
            k=choice.index_k,
            nprobe=choice.index_nprobe,
        )
    refiner = None
    if diffusion is not None:
        refiner = load_graph_refiner(folder, bundle, diffusion, device)
    encoder: Runs = Graph.load(folder, ENCODER, device)
    if choice.cache is not None:
        encoder = choice.cache.graph(encoder, folder / ENCODER, device)
    return OnnxVoice(
        bundle,
        encoder,
        Graph.load(folder, SYNTHESIZER, device),
        Graph.load(folder, F0_DECODER, device) if bundle.has_auto_f0 else None,
        predictor,
        index,
        refiner,
        parse_ranges(bundle.voice_ranges),
        device,
    )


def _predictor(
    folder: Path, bundle: Bundle, choice: HearingChoice, device: str
) -> F0Predictor | None:
    """Make the melody detector; only those that need no torch."""
    name = choice.f0_predictor
    if name is None:
        return None
    check_f0_predictor(name)
    members = ensemble_members(name) or (name,)
    if name == "auto":
        swift = ["swift"] if swift_asset() is not None else []
        members = (*[net for net in ("fcpe", "rmvpe") if net in bundle.f0], *swift, "dio")
    built: list[F0Predictor] = [
        _single(folder, bundle, choice, member, device) for member in members
    ]
    predictor = built[0]
    if len(built) > 1:
        predictor = EnsemblePredictor(built, built[0].settings)
    if choice.cache is not None:
        files = [folder / f0_graph(member) for member in members if member in bundle.f0]
        swift_file = swift_asset() if "swift" in members else None
        files += [] if swift_file is None else [swift_file]
        predictor = choice.cache.predictor(predictor, files, device)
    return RememberingPredictor(predictor)


def _single(
    folder: Path, bundle: Bundle, choice: HearingChoice, name: str, device: str
) -> F0Predictor:
    if name in _WITHOUT_NETS:
        return build_f0_predictor(
            name,
            sampling_rate=bundle.sampling_rate,
            hop_length=bundle.hop_length,
            f0_min=choice.f0_min,
            f0_max=choice.f0_max,
            threshold=choice.f0_threshold,
        )
    usual = bundle.f0[name].threshold if name in bundle.f0 else 0.0
    settings = F0Settings(
        bundle.sampling_rate,
        bundle.hop_length,
        choice.f0_min,
        choice.f0_max,
        usual if choice.f0_threshold is None else choice.f0_threshold,
    )
    return load_graph_predictor(name, folder, bundle, settings, device)
