"""The parts of an exported voice, each a graph: encoder, pitch predictor, diffusion. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track
from svc.config.bundle import (
    CONDITION,
    DENOISER,
    MEL,
    VOCODER,
    Bundle,
    DiffusionFacts,
    F0Facts,
    VocoderFacts,
    f0_graph,
)
from svc.conversion.chunks import FloatArray
from svc.conversion.options import DiffusionChoice, InferOptions
from svc.diffusion.samplers import check_sampling, make_plan
from svc.diffusion.schedule import schedule_arrays
from svc.errors import ConfigError, SvcError
from svc.f0.own_grid import tracks_from_own_grid
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave
from svc.onnx_runtime import open_session, reason


@dataclass(frozen=True)
class Graph:
    """A loaded graph."""

    path: Path
    session: Any

    @classmethod
    def load(cls, folder: Path, name: str, device: str) -> Graph:
        """Load a graph of an exported voice. Raises SvcError."""
        path = folder / name
        again = "export the voice again with  svc onnx-export --profile full"
        return cls(path, open_session(path, "an exported voice", device, again=again))

    def run(self, **inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        """Compute all outputs from inputs by name; those the graph does not have are left out.

        Raises:
            MemoryError: there is not enough.
            SvcError: the graph cannot compute.
        """
        wanted = {port.name for port in self.session.get_inputs()}
        feed = {name: value for name, value in inputs.items() if name in wanted}
        try:
            found: list[npt.NDArray[np.float32]] = self.session.run(None, feed)
        except Exception as error:  # onnxruntime's errors have no base class but this
            text = reason(error)
            if "allocate" in text.lower() or "memory" in text.lower():
                raise MemoryError(text) from error
            raise SvcError(f"{self.path} cannot compute a stretch of this song: {text}") from error
        return found


class GraphPredictor:
    """Pitch by an exported rmvpe or fcpe; an `F0Predictor`.

    Args:
        name: "rmvpe" or "fcpe".
        graph: its graph.
        facts: what the manifest says of it.
        settings: range, threshold, rates.
    """

    def __init__(self, name: str, graph: Graph, facts: F0Facts, settings: F0Settings) -> None:
        self.name, self.settings = name, settings
        self._graph, self._facts = graph, facts

    def __call__(self, wav: npt.NDArray[np.float32] | F0Wave) -> F0Track:
        """Return the track of a wave: (T,) samples -> T // hop_length frames, with confidence.
        Raises AudioError for NaN samples.
        """
        return self.track_batch([wav])[0]

    def track_batch(self, wavs: Sequence[npt.NDArray[np.float32] | F0Wave]) -> list[F0Track]:
        """Return the tracks of several waves, one after the other."""
        return tracks_from_own_grid(
            self.settings, wavs, lambda waves: [self._read(wave) for wave in waves]
        )

    def _read(self, wave: F0Wave) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        samples = wave.samples_at_16k()
        missing = max(0, self._facts.least_samples - samples.size)
        settings = self.settings
        f0, confidence = self._graph.run(
            wav=np.pad(samples, (0, missing))[None],
            threshold=np.array([settings.threshold], dtype=np.float32),
            f0_min=np.array([settings.f0_min], dtype=np.float32),
            f0_max=np.array([settings.f0_max], dtype=np.float32),
        )
        n_frames = samples.size // self._facts.hop_length + 1
        return f0[0, :n_frames], confidence[0, :n_frames]


def load_graph_predictor(
    name: str, folder: Path, bundle: Bundle, settings: F0Settings, device: str
) -> GraphPredictor:
    """Load an exported pitch predictor.

    Raises:
        ConfigError: this voice was exported without it.
        SvcError: the graph cannot be used.
    """
    if name not in bundle.f0:
        there = ", ".join(["pm", "dio", "harvest", "swift", *bundle.f0])
        raise ConfigError(
            f"-f0p {name}: {folder} was exported without it; choose {there}, or export again with "
            f"--f0 {name}"
        )
    graph = Graph.load(folder, f0_graph(name), device)
    return GraphPredictor(name, graph, bundle.f0[name], settings)


@dataclass(frozen=True)
class GraphRefiner:
    """An exported diffusion model with its vocoder, which go over what a voice has sung.

    Attributes:
        condition: units, pitch and loudness -> what the denoiser is told.
        denoiser: noisy mel, time, condition -> the noise.
        mel: samples -> mel.
        vocoder: mel and pitch -> samples.
        facts: of the diffusion model.
        source: of the vocoder.
        speakers: name -> id in the voice.
        method: sampler.
        speedup: evaluations are fewer by this factor.
    """

    condition: Graph
    denoiser: Graph
    mel: Graph
    vocoder: Graph
    facts: DiffusionFacts
    source: VocoderFacts
    speakers: Mapping[str, int]
    method: str | None
    speedup: int

    def check_options(self, options: InferOptions, singers: Mapping[str, int]) -> None:
        """Raise ConfigError for steps that the model was not trained for and speakers it has not."""
        facts = self.facts
        if options.k_step > facts.k_step_max:
            raise ConfigError(
                f"-ks/--k_step is {options.k_step}: this diffusion model was trained for up to "
                f"{facts.k_step_max}"
            )
        check_sampling(self.method, k_step=options.k_step, speedup=self.speedup)
        for name in singers:
            if facts.speakers and name not in facts.speakers:
                raise ConfigError(
                    f'the exported diffusion model does not know the speaker "{name}"; run without -shd'
                )

    def refine(
        self,
        wav: FloatArray,
        units: FloatArray,
        f0: FloatArray,
        volume: FloatArray,
        weights: FloatArray,
        options: InferOptions,
        random: np.random.Generator,
    ) -> FloatArray:
        """Go over a stretch.

        Args:
            wav: (n,) of the voice.
            units: (U, N).
            f0: (N,) Hz.
            volume: (N,) linear RMS.
            weights: (N, S) or (1, S) of the voice's ids.
            options: k_step is used.
            random: of all draws.

        Returns:
            (n,).
        """
        facts = self.facts
        (told,) = self.condition.run(
            units=np.ascontiguousarray(units.T)[None],
            f0=f0[None],
            volume=volume[None],
            spk_mix=self._columns(weights),
        )
        low = np.array(facts.mel_min, dtype=np.float32)[:, None]
        high = np.array(facts.mel_max, dtype=np.float32)[:, None]
        (mel,) = self.mel.run(wav=wav[None])
        clean = ((mel[0] - low) / (high - low) * 2 - 1)[None, None]
        schedule = schedule_arrays(facts.timesteps)
        plan = make_plan(schedule, self.method, k_step=options.k_step, speedup=self.speedup)

        def draw() -> FloatArray:
            drawn: FloatArray = random.standard_normal(clean.shape, dtype=np.float32)
            return drawn

        def denoise(x: FloatArray, time: float) -> FloatArray:
            at = np.array([time], dtype=np.float32)
            noise = np.asarray(x, dtype=np.float32)
            (found,) = self.denoiser.run(noise=noise, time=at, condition=told)
            return found

        last = options.k_step - 1
        x = schedule["sqrt_alphas_cumprod"][last] * clean
        x = x + schedule["sqrt_one_minus_alphas_cumprod"][last] * draw()
        sampled = np.asarray(plan.run(x, denoise, draw), dtype=np.float32)
        made = (sampled[0, 0] + 1) / 2 * (high - low) + low
        return self.sing(made.astype(np.float32), f0, random)

    def sing(self, mel: FloatArray, f0: FloatArray, random: np.random.Generator) -> FloatArray:
        """Make samples (N * hop,) of a mel (M, N)."""
        facts = self.source
        phase, noise = draw_source(random, f0.size * facts.hop_length, facts.n_harmonics)
        (wav,) = self.vocoder.run(
            mel=mel[None], f0=f0[None], source_phase=phase, source_noise=noise
        )
        sung: FloatArray = wav.reshape(-1)
        return sung

    def _columns(self, weights: FloatArray) -> FloatArray:
        """Weights in the order of the diffusion model's ids."""
        facts = self.facts
        table = np.zeros((len(weights), facts.n_speakers), dtype=np.float32)
        if facts.n_speakers <= 1:  # it sings in one way, whatever ids its config names
            return table
        for name, row in self.speakers.items():
            if name in facts.speakers:
                table[:, facts.speakers[name]] += weights[:, row]
        return table


def draw_source(
    random: np.random.Generator, n_samples: int, n_harmonics: int
) -> tuple[FloatArray, FloatArray]:
    """Draw the random part of a harmonic source: phases (1, H) in turns and noise (1, n, H)."""
    phase = random.random((1, n_harmonics), dtype=np.float32)
    phase[:, :1] = 0  # a mini-NSF vocoder has no harmonics at all
    return phase, random.standard_normal((1, n_samples, n_harmonics), dtype=np.float32)


def load_graph_refiner(
    folder: Path, bundle: Bundle, choice: DiffusionChoice, device: str
) -> GraphRefiner:
    """Load the diffusion model that was exported with a voice.

    Raises:
        ConfigError: it was exported without one.
        SvcError: a graph cannot be used.
    """
    facts = bundle.diffusion
    if facts is None or bundle.vocoder is None or MEL not in bundle.graphs:
        raise ConfigError(
            f"-shd/--shallow_diffusion: {folder} was exported without a diffusion model and vocoder; "
            "export it again with --diffusion and --vocoder"
        )
    return GraphRefiner(
        Graph.load(folder, CONDITION, device),
        Graph.load(folder, DENOISER, device),
        Graph.load(folder, MEL, device),
        Graph.load(folder, VOCODER, device),
        facts=facts,
        source=bundle.vocoder,
        speakers=bundle.speakers,
        method=facts.method if choice.method is None else choice.method,
        speedup=facts.speedup if choice.speedup is None else choice.speedup,
    )
