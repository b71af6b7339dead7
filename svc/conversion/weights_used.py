"""Which files decide what a conversion sounds like, by what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from svc.config import encoder_paths, ensemble_members
from svc.f0.base import resolve_f0_predictor
from svc.f0.swift import swift_asset
from svc.pretrained import torchfcpe_asset

if TYPE_CHECKING:
    from svc.conversion.chosen import ChosenVoice
    from svc.conversion.options import DiffusionChoice, HearingChoice

Files = dict[str, list[Path]]
"""Role, such as "model" -> files, the most important one first."""


def files_used(
    voice: ChosenVoice,
    choice: HearingChoice,
    *,
    diffusion: DiffusionChoice | None = None,
    enhancer: Path | None = None,
) -> Files:
    """List what a conversion reads besides its songs.

    Args:
        voice: the voice.
        choice: how it listens.
        diffusion: the diffusion model that takes part.
        enhancer: the vocoder that sings the result again.

    Raises:
        SvcError: a file is not there; whatever loads it would say the same.
    """
    timbre = [] if choice.cluster_path is None else _inside(Path(choice.cluster_path))
    if voice.is_exported:
        return _not_empty({"model": _of_bundle(voice.home, choice), "timbre": timbre})
    given = None if choice.encoder_path is None else str(choice.encoder_path)
    own = {
        **encoder_paths(voice.encoder, voice.encoder_path),
        **encoder_paths(voice.encoder, given),
    }
    found: Files = {
        "model": [] if voice.model is None else [voice.model],
        "config": [] if voice.config is None else [voice.config],
        "encoder": encoder_files(voice.encoder, own, Path(choice.pretrain_dir)),
        "f0_predictor": [],
        "timbre": timbre,
    }
    if choice.f0_predictor is not None:
        found["f0_predictor"] = predictor_files(choice.f0_predictor, Path(choice.pretrain_dir))
    if diffusion is not None:
        from svc.config import load_diffusion_config

        vocoder = diffusion.vocoder or load_diffusion_config(diffusion.config_path).vocoder.ckpt
        found["diffusion"] = [diffusion.model, diffusion.config_path]
        found["vocoder"] = _of_vocoder(Path(vocoder))
    if enhancer is not None:
        found["enhancer"] = _of_vocoder(enhancer)
    return _not_empty(found)


def encoder_files(name: str, own: Mapping[str, Path], pretrain_dir: Path) -> list[Path]:
    """List the weights of a speech encoder, and the settings beside them.

    Args:
        name: an id, or two joined by "+".
        own: the files that are named for its parts; the others lie at their places.
        pretrain_dir: folder of the default files.

    Raises:
        SvcError: a file is not there.
    """
    from svc.speech.locate import files_of, locate_encoder  # torch

    places = locate_encoder(name, own, pretrain_dir).values()
    return [file for place in places for file in files_of(place)]


def predictor_files(name: str, pretrain_dir: Path) -> list[Path]:
    """List the weights of a pitch predictor, those of all members of an ensemble; methods that are no
    nets have none.

    Args:
        name: an id of `svc.f0`.
        pretrain_dir: folder of the default files.
    """
    name = resolve_f0_predictor(name)
    found: list[Path | None] = []
    for member in ensemble_members(name) or (name,):
        if member == "swift":
            found.append(swift_asset())
        elif member == "rmvpe":
            found.append(pretrain_dir / "rmvpe.pt")
        elif member == "fcpe":
            own = pretrain_dir / "fcpe.pt"
            found.append(own if own.is_file() else torchfcpe_asset())
        elif member.startswith("crepe"):
            from svc.f0.crepe_net import crepe_asset  # torch

            found.append(crepe_asset("tiny" if member == "crepe-tiny" else "full"))
    return [path for path in found if path is not None]


def _of_bundle(folder: Path, choice: HearingChoice) -> list[Path]:
    from svc.config.bundle import manifest_path, read_bundle

    manifest = manifest_path(folder)
    found = [manifest, *(manifest.with_name(name) for name in read_bundle(folder).graphs)]
    if choice.f0_predictor in ("swift", "auto", "ensemble") and (swift := swift_asset()):
        found.append(swift)
    return found


def _of_vocoder(path: Path) -> list[Path]:
    from svc.vocoder.files import find_vocoder

    return list(find_vocoder(path))


def _inside(path: Path) -> list[Path]:
    """Return a file, or the files of a folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path]


def _not_empty(found: Files) -> Files:
    return {role: paths for role, paths in found.items() if paths}
