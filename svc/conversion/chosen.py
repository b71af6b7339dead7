"""Which voice is meant, and what its config says, before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from svc.conversion.companions import diffusion_ranges
from svc.conversion.compute import ComputeChoice
from svc.conversion.key import unknown_range
from svc.conversion.names import find_model
from svc.conversion.options import DiffusionChoice
from svc.errors import ConfigError
from svc.f0.curve import FrameGrid
from svc.f0.range_files import find_ranges, parse_ranges
from svc.f0.voice_range import VoiceRange


@dataclass(frozen=True)
class ChosenVoice:
    """A voice on disk.

    Attributes:
        model: the checkpoint, or the folder of an exported voice; None = diffusion sings alone.
        config: the config of `model`; None where it needs none.
        speakers: name -> id.
        grid: where the frames of a song's pitch curve lie.
        home: the file or folder beside which clusters, index and ranges are looked for.
        own_ranges: ranges that came with the config; None = they are with the model.
        encoder: id of its speech encoder; "" where it is part of an exported voice.
        encoder_path: where the config says its weights are.
    """

    model: Path | None
    config: Path | None
    speakers: Mapping[str, int]
    grid: FrameGrid
    home: Path
    own_ranges: Mapping[str, VoiceRange] | None = None
    encoder: str = ""
    encoder_path: str | None = None

    @property
    def is_exported(self) -> bool:
        """Whether it is a folder of graphs."""
        return self.model is not None and self.config is None

    def require_ranges(self, speakers: Sequence[str]) -> None:
        """Make sure that the ranges of voices are known. Raises ConfigError, SvcError."""
        ranges = self.own_ranges
        if ranges is None:
            ranges = (find_ranges if self.model is not None else diffusion_ranges)(self.home)
        for speaker in speakers:
            if speaker not in ranges:
                raise unknown_range(speaker, self.home.parent)


def choose_voice(
    model_path: str | Path | None,
    config_path: str | Path | None,
    *,
    compute: ComputeChoice | None = None,
    only_diffusion: DiffusionChoice | None = None,
) -> ChosenVoice:
    """Find a voice and read its config.

    Args:
        model_path: see `find_model`; or the folder of an exported voice.
        config_path: its config; None = the one beside it.
        compute: what is asked of its nets.
        only_diffusion: the diffusion model that sings alone; the two paths must be None then.

    Raises:
        MissingFileError: a file is not there; says what to give.
        ConfigError: a config is wrong, or flags contradict each other.
    """
    compute = compute or ComputeChoice()
    if only_diffusion is not None:
        return _diffusion(only_diffusion, compute.backend)
    if model_path is not None and compute.sings_export(model_path):
        return _exported(model_path, config_path)
    from svc.config import load_config

    model, path = find_model(model_path, config_path)
    config = load_config(path)
    grid = FrameGrid(config.data.sampling_rate, config.data.hop_length)
    net = config.model
    return ChosenVoice(
        model, path, config.spk, grid, model,
        encoder=net.speech_encoder, encoder_path=net.encoder_path,
    )  # fmt: skip


def _diffusion(choice: DiffusionChoice, backend: str) -> ChosenVoice:
    from svc.config import load_diffusion_config

    if backend not in ("auto", "torch"):
        raise ConfigError(f"-od/--only_diffusion and --backend {backend}: use --backend torch")
    config = load_diffusion_config(choice.config_path)
    grid = FrameGrid(config.data.sampling_rate, config.data.block_size)
    return ChosenVoice(None, None, config.spk, grid, choice.model, encoder=config.data.encoder)


def _exported(model_path: str | Path, config_path: str | Path | None) -> ChosenVoice:
    from svc.config.bundle import read_bundle

    if config_path is not None:
        raise ConfigError("-c/--config_path: an exported voice carries its config; leave it out")
    folder = Path(model_path)
    bundle = read_bundle(folder)
    grid = FrameGrid(bundle.sampling_rate, bundle.hop_length)
    try:
        ranges = parse_ranges(bundle.voice_ranges)
    except ValueError as error:
        raise ConfigError(f"{folder}: damaged range of a voice: {error}") from error
    return ChosenVoice(folder, None, bundle.speakers, grid, folder, ranges)
