"""The files of a vocoder's run beside its checkpoints: the export that singing takes, the best one,
and what it begins from.

=====================  =====================================================================
``V_<step>.pth``       generator, optimiser and position of the run; ``D_<step>.pth`` beside it
``model``              the newest generator as programs of the community read it (spec_vocoder 1)
``config.json``        of the vocoder: all of them read it here
``best/``              ``model`` and ``config.json`` of the best evaluation, and ``score.json``
=====================  =====================================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from svc.atomic import atomic_path, write_text
from svc.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint, step_of
from svc.config.schema import write_section
from svc.config.vocoder_training import VocoderRunConfig, check_same_vocoder
from svc.errors import CheckpointError, ConfigError
from svc.training.rundir import Start
from svc.training.scores import Score
from svc.training.state import plain_state
from svc.vocoder.generator import Generator
from svc.vocoder.nsf_hifigan import CONFIG_NAME, find_vocoder, read_vocoder

MODEL = "model"
BEST = "best"
_SCORE = "score.json"


def check_folder(run_dir: Path) -> None:
    """Refuse a folder whose files a run would overwrite.

    Raises:
        CheckpointError: it is the run of a voice, or holds a vocoder that no run made.
    """
    voices = list_checkpoints(run_dir, "G")
    if voices:
        raise CheckpointError(
            f"{run_dir} is the run of a voice: it holds {voices[-1].name}; give the vocoder a "
            "folder of its own with --output"
        )
    if (run_dir / MODEL).exists() and not list_checkpoints(run_dir, "V"):
        raise CheckpointError(
            f"{run_dir / MODEL} is a vocoder without the V_<step>.pth of a run, and training would "
            f"overwrite it; give another --output, and  --base {run_dir}  to begin from it"
        )


def export(generator: Generator, config_file: Path, folder: Path) -> Path:
    """Write a generator and its config as the community does: ``{"generator": state}``, with weight
    norm (spec_vocoder 1 and 2).

    Args:
        generator: not folded.
        config_file: its config.
        folder: where both go.

    Returns:
        The path of the weights.

    Raises:
        OutputError: a file cannot be written; earlier ones are whole.
    """
    config = folder / CONFIG_NAME
    content = config_file.read_bytes()
    if not config.is_file() or config.read_bytes() != content:
        with atomic_path(config) as temporary:
            temporary.write_bytes(content)
    save_checkpoint({"generator": plain_state(generator)}, folder / MODEL, read_back=True)
    return folder / MODEL


# ---- the best one --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Best:
    """The best evaluation so far."""

    step: int
    mel: float
    measure: str
    """Of which clips."""


def read_best(run_dir: Path) -> Best | None:
    """Return what is known of the best export of a run, or None."""
    folder = run_dir / BEST
    if not (folder / MODEL).is_file():
        return None
    try:
        raw = json.loads((folder / _SCORE).read_text(encoding="utf-8"))
        return Best(int(raw["step"]), float(raw["mel"]), str(raw["measure"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_best(
    run_dir: Path, generator: Generator, config_file: Path, best: Best, score: Score
) -> None:
    """Put a generator into the place of the best one. Raises OutputError."""
    folder = run_dir / BEST
    # Without its score the earlier one counts for nothing: a kill in between costs no better one.
    (folder / _SCORE).unlink(missing_ok=True)
    export(generator, config_file, folder)
    content = {"step": best.step, **score.scalars(), "measure": best.measure}
    write_text(folder / _SCORE, json.dumps(content, indent=1) + "\n")


def later_exports(run_dir: Path, after: int) -> list[Path]:
    """Return the exports of steps above `after`: they do not belong to a run that begins there."""
    steps = [step_of(path) or 0 for path in list_checkpoints(run_dir, "V")]
    newest, files = max(steps, default=0), []
    if newest > after:
        files.append(run_dir / MODEL)
    best = read_best(run_dir)
    if best is None or best.step > after:
        files += [run_dir / BEST / name for name in (MODEL, CONFIG_NAME, _SCORE)]
    return [file for file in files if file.is_file()]


# ---- what a run begins from ----------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """A vocoder to begin from."""

    weights: Path
    generator: dict[str, Tensor]
    discriminator: dict[str, Any] | None
    """Checkpoint of the D beside a ``V_<step>.pth``."""
    partner: Path | None
    """Its file."""
    others: tuple[str, ...]
    """Entries of the file that are not used."""


def read_base(path: Path, config: VocoderRunConfig) -> Base:
    """Read a vocoder to begin from.

    Args:
        path: its folder or weights, of the community or of a run here. Beside the ``V_<step>.pth``
            of a run its discriminator is taken too.
        config: what is going to be trained.

    Returns:
        Its tensors.

    Raises:
        SvcError: a file is missing or damaged, or it is another vocoder than the config's.
    """
    weights, config_path = find_vocoder(path)
    theirs, generator = read_vocoder(weights, config_path)
    advice = "leave out --config to train with the base's own, or choose another --base"
    check_same_vocoder(config, write_section(theirs), str(weights), advice)
    content = load_checkpoint(weights, mmap=True)
    entry = next((name for name in ("generator", "model") if name in content), None)
    step, partner, discriminator = step_of(weights), None, None
    if step is not None:
        partner = weights.with_name(f"D_{step}.pth")
        if not partner.is_file():
            raise CheckpointError(
                f"--base {weights} has no {partner.name} beside it; put that there, or take the "
                f"export {weights.with_name(MODEL)}, which begins with a new discriminator"
            )
        discriminator = load_checkpoint(partner)
        if not isinstance(discriminator.get("model"), dict):
            raise CheckpointError(f'{partner}: holds no "model"; it is no discriminator')
    others = tuple(str(name) for name in content if entry is not None and name != entry)
    return Base(weights, generator, discriminator, partner, others)


def config_of(given: Path | None, start: Start, base: Path | None) -> Path | None:
    """Return the config a run takes: as given, else that of the checkpoint it goes on from, else
    the base's; None = the template. Raises MissingFileError where the base is not there.
    """
    if given is not None:
        return given
    if start.generator is not None:
        return start.generator.with_name(CONFIG_NAME)
    return find_vocoder(base)[1] if base is not None else None


def check_resumable(config: VocoderRunConfig, start: Start, content: dict[str, Any]) -> None:
    """Refuse to go on with the config of another vocoder. Raises ConfigError."""
    extra = content.get("svc")
    saved = extra.get("config") if isinstance(extra, dict) else None
    if saved is None:
        raise ConfigError(
            f"{start.generator} does not say what it was trained with; begin from it with  --base "
            f"{start.generator}"
        )
    ways = "leave out --config, use another --output, or --resume never to begin again"
    check_same_vocoder(config, saved, str(start.generator), ways)
