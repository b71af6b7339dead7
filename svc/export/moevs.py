"""Profile `moevs`: what MoeVoiceStudio and its relatives load (spec_onnx 1-3).

    NAME/NAME_SoVits.onnx                                          the voice
    NAME/Index-<id>.index                                          its retrieval index
    NAME_diffusion/NAME_diffusion_{encoder,denoise,pred,after}.onnx  what refines it
    NAME_diffusion/<vocoder>.onnx                                  what makes mels heard
    NAME.json  NAME_diffusion.json                                 what clients read first

Without a voice, diffusion and vocoder go to NAME itself. A failed export changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from svc import __version__
from svc.config import DiffusionConfig, SvcConfig
from svc.errors import ConfigError, import_extra
from svc.export.graph import GraphCheck
from svc.export.moevs_config import as_json, diffusion_config, vocoder_name, voice_config
from svc.export.moevs_diffusion import PARTS, export_diffusion
from svc.export.moevs_nets import MoevsNets, load_nets
from svc.export.moevs_synthesizer import export_synthesizer
from svc.export.moevs_vocoder import export_vocoder
from svc.export.staging import check_free, staged
from svc.progress import Progress, silent
from svc.vocoder.nsf_hifigan import NsfHifigan

TOLERANCE = 1e-4
"""Largest difference of any sample or mel value from torch's; below 1e-5 is usual."""


@dataclass(frozen=True)
class MoevsOptions:
    """What to export, and where to.

    Attributes:
        folder: of the graphs; its name is the model's, and the JSON goes beside it.
        model: checkpoint of a voice.
        config: its config; None = `config.json` beside it.
        diffusion: checkpoint of a diffusion voice.
        diffusion_config: its config; None = `config.yaml` beside it.
        vocoder: weights of a mel vocoder, its `config.json` beside it.
        index: retrieval index of the voice: the folder that `svc train-index` writes, or
            `feature_and_index.pkl`.
        tolerance: largest difference of any number from torch's.
        force: replace files that are there.

    Raises:
        ConfigError: nothing to export, or options that do not go together.
    """

    folder: Path
    model: Path | None = None
    config: Path | None = None
    diffusion: Path | None = None
    diffusion_config: Path | None = None
    vocoder: Path | None = None
    index: Path | None = None
    tolerance: float = TOLERANCE
    force: bool = False

    def __post_init__(self) -> None:
        if self.model is None and self.diffusion is None and self.vocoder is None:
            raise ConfigError("say what to export: a voice, a diffusion voice or a vocoder")
        if self.index is not None and self.model is None:
            raise ConfigError("--index belongs to a voice: name its checkpoint with -m")
        if not self.tolerance > 0:
            raise ConfigError(f"--tolerance must be above 0, found {self.tolerance:g}")
        if self.folder.name in ("", ".."):
            raise ConfigError(f"-o {self.folder}: name a folder, the model is called after it")

    @property
    def companions(self) -> Path:
        """Folder of diffusion and vocoder."""
        name = self.folder.name
        return self.folder if self.model is None else self.folder.with_name(f"{name}_diffusion")


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written."""

    path: Path
    bytes: int
    check: GraphCheck | None = None  # of a graph
    seconds: float = 0.0  # that a graph took


class _Work(NamedTuple):
    """Graphs that are made together: where they go, and what writes them elsewhere."""

    paths: Sequence[Path]
    run: Callable[[Sequence[Path]], Sequence[GraphCheck]]


def export_moevs(options: MoevsOptions, progress: Progress = silent) -> list[ExportedFile]:
    """Export.

    Args:
        options: what, and where to.
        progress: called after the graphs of each net.

    Returns:
        The files, graphs first.

    Raises:
        ConfigError, CheckpointError, MissingFileError: a model cannot be used; found before the
            first graph is written.
        OutputError: a file is there already, or cannot be written.
        MissingDependencyError: onnx or onnxruntime is not installed.
        ExportError: a graph differs from its net by more than the tolerance; nothing is left.
    """
    import_extra("onnx", "onnx")
    import_extra("onnxruntime", "onnx")
    nets = load_nets(
        model=options.model,
        config=options.config,
        diffusion=options.diffusion,
        diffusion_config=options.diffusion_config,
        vocoder=options.vocoder,
        index=options.index,
    )
    graphs, plain = _graphs(nets, options), _plain_files(nets, options)
    targets = [*(path for work in graphs for path in work.paths), *plain]
    check_free(targets, force=options.force)
    files = []
    with staged(options.folder.parent, targets) as place:
        for done, work in enumerate(graphs, start=1):
            start = time.perf_counter()
            checks = work.run([place(path) for path in work.paths])
            seconds = (time.perf_counter() - start) / len(checks)
            for path, check in zip(work.paths, checks, strict=True):
                files.append(ExportedFile(path, place(path).stat().st_size, check, seconds))
            progress(done, len(graphs), work.paths[0].name)
        for path, content in plain.items():
            place(path).write_bytes(content)
            files.append(ExportedFile(path, len(content)))
    return files


def _graphs(nets: MoevsNets, options: MoevsOptions) -> list[_Work]:
    """What there is to do, the voice first."""
    tolerance, companions = options.tolerance, options.companions
    graphs = []
    if nets.voice is not None:
        net, voice = nets.voice
        ids = list(voice.spk.values())
        facts = _describe_voice(voice)

        def sing(paths: Sequence[Path]) -> list[GraphCheck]:
            return [export_synthesizer(net, ids, paths[0], tolerance=tolerance, metadata=facts)]

        path = options.folder / f"{options.folder.name}_SoVits.onnx"
        graphs.append(_Work([path], sing))
    if nets.diffusion is not None:
        refiner, settings = nets.diffusion
        log10 = settings.vocoder.type == "nsf-hifigan-log10"
        described = _describe_diffusion(settings, log10=log10)

        def refine(paths: Sequence[Path]) -> list[GraphCheck]:
            named = dict(zip(PARTS, paths, strict=True))
            found = export_diffusion(
                refiner, named, log10=log10, tolerance=tolerance, metadata=described
            )
            return [found[part] for part in PARTS]

        name = companions.name
        graphs.append(_Work([companions / f"{name}_{part}.onnx" for part in PARTS], refine))
    if nets.vocoder is not None and options.vocoder is not None:
        graphs.append(_vocoder_graph(nets.vocoder, options.vocoder, companions, tolerance))
    return graphs


def _vocoder_graph(vocoder: NsfHifigan, source: Path, folder: Path, tolerance: float) -> _Work:
    def vocode(paths: Sequence[Path]) -> list[GraphCheck]:
        return [
            export_vocoder(
                vocoder.generator,
                vocoder.n_mels,
                paths[0],
                tolerance=tolerance,
                metadata=_describe_vocoder(vocoder),
            )
        ]

    return _Work([folder / f"{vocoder_name(source)}.onnx"], vocode)


def _plain_files(nets: MoevsNets, options: MoevsOptions) -> dict[Path, bytes | memoryview]:
    """Everything that is no graph; the JSON files come last, clients look for them first."""
    folder, companions = options.folder, options.companions
    files: dict[Path, bytes | memoryview] = {
        folder / f"Index-{number}.index": data for number, data in nets.index.items()
    }
    described = {}
    if nets.diffusion is not None:
        refiner, settings = nets.diffusion
        described[companions] = diffusion_config(
            settings, companions.name, n_mels=refiner.n_mels, vocoder=options.vocoder
        )
    if nets.voice is not None:
        described[folder] = voice_config(
            nets.voice[1],
            folder.name,
            index=bool(nets.index),
            shallow=companions.name if nets.diffusion is not None else None,
        )
    for place, content in described.items():
        files[place.with_name(f"{place.name}.json")] = as_json(content).encode()
    return files


def _describe(**facts: str | int) -> dict[str, str]:
    return {
        "svc_version": __version__,
        "profile": "moevs",
        **{key: str(value) for key, value in facts.items()},
    }


def _describe_voice(config: SvcConfig) -> Mapping[str, str]:
    return _describe(
        sampling_rate=config.data.sampling_rate,
        hop_length=config.data.hop_length,
        encoder=config.model.speech_encoder,
        units_dim=config.model.ssl_dim,
        speakers=json.dumps(config.spk, ensure_ascii=False),
        mel2ph="1-based, 0 = zeros",
        noise="already multiplied by the noise scale",
    )


def _describe_diffusion(config: DiffusionConfig, *, log10: bool) -> Mapping[str, str]:
    return _describe(
        sampling_rate=config.data.sampling_rate,
        hop_length=config.data.block_size,
        encoder=config.data.encoder,
        units_dim=config.data.encoder_out_channels,
        speakers=json.dumps(config.spk, ensure_ascii=False),
        mel2ph="1-based, 0 = zeros",
        mel_out="common logarithm" if log10 else "natural logarithm",
        timesteps=config.model.n_steps,
        k_step_max=config.model.trained_steps,
    )


def _describe_vocoder(vocoder: NsfHifigan) -> Mapping[str, str]:
    return _describe(
        sampling_rate=vocoder.sampling_rate, hop_length=vocoder.hop_length, n_mels=vocoder.n_mels
    )
