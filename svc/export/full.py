"""Profile `full`: everything that a conversion runs, as graphs with a manifest, in one folder.

    encoder.onnx  synthesizer.onnx  f0_decoder.onnx  f0_rmvpe.onnx  f0_fcpe.onnx
    diffusion_condition.onnx  diffusion_denoiser.onnx  mel.onnx  vocoder.onnx  svc.json

What goes into which graph is in `svc.config.bundle`. Each graph is compared with the net it was
made of on two lengths; a single one that differs leaves no folder behind (spec_onnx 4).
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svc import __version__
from svc.config import SvcConfig, load_config
from svc.config.bundle import (
    ENCODER,
    F0_DECODER,
    SYNTHESIZER,
    Bundle,
    EncoderFacts,
    F0Facts,
    GraphFacts,
    SourceFacts,
    VocoderFacts,
    f0_graph,
    write_bundle,
)
from svc.errors import ConfigError, import_extra
from svc.export.bundle import check_output, graph_facts, new_bundle
from svc.export.full_diffusion import export_diffusion
from svc.export.full_encoder import export_encoder
from svc.export.full_f0 import PREDICTORS, export_f0
from svc.export.full_nets import FullNets, load_nets
from svc.export.full_synthesizer import export_f0_decoder, export_synthesizer
from svc.export.full_vocoder import export_vocoder, vocoder_facts
from svc.export.graph import GraphCheck
from svc.export.voice_file import read_voice
from svc.f0.range_files import find_ranges, plain_ranges
from svc.pretrained import PRETRAIN_DIR
from svc.progress import Progress, silent

TOLERANCE = 1e-4
"""Largest difference of any unit, sample or salience from torch's; 5e-6 is usual."""

Described = Mapping[str, str]


@dataclass(frozen=True)
class GraphReport:
    """One line of the report: a graph, its size, how close it is, how long it took."""

    name: str
    bytes: int
    max_abs_error: float
    tolerance: float
    seconds: float


@dataclass(frozen=True)
class FullReport:
    """What was exported."""

    folder: Path
    graphs: tuple[GraphReport, ...]

    @property
    def bytes(self) -> int:
        """Size of all graphs."""
        return sum(graph.bytes for graph in self.graphs)


@dataclass
class _Made:
    """What the graphs have told so far."""

    folder: Path
    graphs: dict[str, GraphFacts] = field(default_factory=dict)
    reports: list[GraphReport] = field(default_factory=list)
    encoder: EncoderFacts | None = None
    f0: dict[str, F0Facts] = field(default_factory=dict)
    vocoder: VocoderFacts | None = None

    def add(self, checks: Mapping[str, GraphCheck], seconds: float) -> None:
        for name, check in checks.items():
            facts = graph_facts(self.folder / name, check)
            share = seconds / len(checks)
            self.graphs[name] = facts
            self.reports.append(
                GraphReport(name, facts.bytes, check.max_abs_error, check.tolerance, share)
            )


def export_full(
    model: str | Path,
    config: str | Path | None = None,
    *,
    output: str | Path,
    encoder_path: str | Path | None = None,
    pretrain_dir: str | Path = PRETRAIN_DIR,
    f0: Sequence[str] = (),
    diffusion: str | Path | None = None,
    diffusion_config: str | Path | None = None,
    vocoder: str | Path | None = None,
    tolerance: float = TOLERANCE,
    progress: Progress = silent,
    force: bool = False,
) -> FullReport:
    """Export a voice with all that conversion needs.

    Args:
        model: checkpoint of the voice.
        config: its config; None = `config.json` beside it.
        output: folder of the result; its name is the voice's, to clients.
        encoder_path: weights of the speech encoder as ``--encoder_path`` names them; None = as the
            config says, else their place under `pretrain_dir`.
        pretrain_dir: folder of default weights.
        f0: pitch predictors to export, of `svc.export.full_f0.PREDICTORS`.
        diffusion: checkpoint of a diffusion voice; None = none.
        diffusion_config: its config; None = `config.yaml` beside it.
        vocoder: weights of a mel vocoder, its `config.json` beside it; None = what the diffusion
            voice's config names, if there is one.
        tolerance: largest difference from torch, of pitch a hundred times it in Hz.
        progress: called before each graph.
        force: replace an exported voice in `output`.

    Returns:
        What was written.

    Raises:
        ConfigError, CheckpointError, MissingFileError: a model cannot be used or exported; found
            before the first graph is written.
        OutputError: `output` is in the way, or cannot be written.
        MissingDependencyError: onnx or onnxruntime is not installed.
        ExportError: a graph differs from its net by more than the tolerance; nothing is left.
    """
    folder, model_path = Path(output), Path(model)
    check_output(folder, force=force)
    import_extra("onnx", "onnx")
    import_extra("onnxruntime", "onnx")
    if not tolerance > 0:
        raise ConfigError(f"--tolerance must be above 0, found {tolerance:g}")
    unknown = [name for name in f0 if name not in PREDICTORS]
    if unknown:
        raise ConfigError(
            f'the F0 predictor "{unknown[0]}" cannot be exported; use {" and ".join(PREDICTORS)}'
        )
    source = SourceFacts(**_origin(model_path))
    ranges = plain_ranges(find_ranges(model_path))
    nets = load_nets(
        model_path,
        load_config(model_path.with_name("config.json") if config is None else config),
        encoder_path=None if encoder_path is None else str(encoder_path),
        pretrain_dir=Path(pretrain_dir),
        f0=list(dict.fromkeys(f0)),
        diffusion=None if diffusion is None else Path(diffusion),
        diffusion_config=None if diffusion_config is None else Path(diffusion_config),
        vocoder=None if vocoder is None else Path(vocoder),
    )
    with new_bundle(folder, force=force) as temporary:
        made = _Made(temporary)
        tasks = _tasks(nets, made, tolerance)
        for done, (name, task) in enumerate(tasks.items()):
            progress(done, len(tasks), name)
            start = time.perf_counter()
            made.add(task(), time.perf_counter() - start)
        progress(len(tasks), len(tasks), "")
        write_bundle(_bundle(nets, made, source, ranges), temporary)
    return FullReport(folder, tuple(made.reports))


def _origin(model: Path) -> dict[str, Any]:
    origin = read_voice(model).origin()
    return {
        "checkpoint": origin["name"],
        "sha256": origin["sha256"],
        "step": origin.get("step"),
    }


def _tasks(
    nets: FullNets, made: _Made, tolerance: float
) -> dict[str, Callable[[], dict[str, GraphCheck]]]:
    """What there is to do, by the name of the first file that it writes; each says how close its
    graphs are.
    """
    common = _describe(nets.config)
    folder, n_speakers = made.folder, _n_speakers(nets.config)
    voice = {**common, **_describe_voice(nets)}

    def encoder() -> dict[str, GraphCheck]:
        made.encoder, check = export_encoder(
            nets.encoder, folder / ENCODER, tolerance=tolerance, metadata=common
        )
        return {ENCODER: check}

    def synthesizer() -> dict[str, GraphCheck]:
        path = folder / SYNTHESIZER
        return {
            SYNTHESIZER: export_synthesizer(
                nets.voice, n_speakers, path, tolerance=tolerance, metadata=voice
            )
        }

    def f0_decoder() -> dict[str, GraphCheck]:
        path = folder / F0_DECODER
        return {
            F0_DECODER: export_f0_decoder(
                nets.voice, n_speakers, path, tolerance=tolerance, metadata=voice
            )
        }

    def f0(name: str) -> dict[str, GraphCheck]:
        made.f0[name], check = export_f0(
            nets.f0[name], folder / f0_graph(name), tolerance=tolerance, metadata=common
        )
        return {f0_graph(name): check}

    def diffusion() -> dict[str, GraphCheck]:
        assert nets.diffusion is not None  # noqa: S101 - for the type checker
        return export_diffusion(*nets.diffusion, folder, tolerance=tolerance, metadata=common)

    def vocoder() -> dict[str, GraphCheck]:
        assert nets.vocoder is not None  # noqa: S101 - for the type checker
        made.vocoder = vocoder_facts(nets.vocoder)
        return export_vocoder(
            nets.vocoder, made.vocoder, folder, tolerance=tolerance, metadata=common
        )

    tasks: dict[str, Callable[[], dict[str, GraphCheck]]] = {
        SYNTHESIZER: synthesizer,
        ENCODER: encoder,
    }
    if nets.voice.has_auto_f0:
        tasks[F0_DECODER] = f0_decoder
    tasks |= {f0_graph(name): functools.partial(f0, name) for name in nets.f0}
    if nets.diffusion is not None:
        tasks["diffusion"] = diffusion
    if nets.vocoder is not None:
        tasks["vocoder"] = vocoder
    return tasks


def _n_speakers(config: SvcConfig) -> int:
    """Rows of the speaker table that the config names: ids 0 to the highest."""
    return max(config.spk.values()) + 1


def _describe(config: SvcConfig) -> dict[str, str]:
    """Facts that every graph carries."""
    return {
        "svc_version": __version__,
        "profile": "full",
        "speakers": json.dumps(config.spk, ensure_ascii=False),
    }


def _describe_voice(nets: FullNets) -> dict[str, str]:
    data, model = nets.config.data, nets.config.model
    return {
        "sampling_rate": str(data.sampling_rate),
        "hop_length": str(data.hop_length),
        "units_dim": str(model.ssl_dim),
        "encoder": model.speech_encoder,
        "unit_interpolate_mode": data.unit_interpolate_mode,
    }


def _bundle(nets: FullNets, made: _Made, source: SourceFacts, ranges: Mapping[str, Any]) -> Bundle:
    assert made.encoder is not None  # noqa: S101 - its graph has been written
    data, model = nets.config.data, nets.config.model
    return Bundle(
        sampling_rate=data.sampling_rate,
        hop_length=data.hop_length,
        unit_interpolate_mode=data.unit_interpolate_mode,
        speakers=dict(nets.config.spk),
        n_speakers=_n_speakers(nets.config),
        units_dim=model.ssl_dim,
        inter_channels=model.inter_channels,
        n_harmonics=nets.voice.dec.m_source.n_harmonics,
        has_auto_f0=nets.voice.has_auto_f0,
        has_volume=nets.voice.has_volume,
        encoder=made.encoder,
        graphs=made.graphs,
        source=source,
        svc_version=__version__,
        voice_ranges=dict(ranges),
        f0=made.f0,
        diffusion=None if nets.diffusion is None else nets.diffusion[1],
        vocoder=made.vocoder,
    )
