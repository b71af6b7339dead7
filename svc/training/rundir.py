"""The folder of a run: what a start begins from, and its copy of the config (spec_core 7.5; 10, T4,
T12, T15).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from svc.atomic import atomic_path, make_folder, output_error
from svc.checkpoint import list_checkpoints, load_checkpoint, step_of
from svc.config import ModelConfig, SvcConfig
from svc.errors import CheckpointError, ConfigError, MissingFileError, SvcError

Kind = Literal["G", "V"]
"""What the file of a generator begins with: a voice's, a vocoder's. Its discriminator's is D."""
_WITHOUT_EFFECT = frozenset({"encoder_path", "speaker_embedding", "n_layers_q"})
"""Keys of the model section that change nothing in the nets."""


class RunConfig(Protocol):
    """The config of a run, of whatever is trained."""

    @property
    def path(self) -> Path | None:
        """Where it was read from."""

    def to_dict(self) -> dict[str, Any]:
        """Its content."""


@dataclass(frozen=True)
class Start:
    """What a run begins from."""

    kind: Literal["fresh", "base", "resume"]
    """``base``: weights of G_0/D_0, a new run. ``resume``: an earlier run goes on."""
    generator: Path | None = None
    discriminator: Path | None = None
    step: int = 0
    """Steps that are done."""


def find_start(run_dir: Path, resume: str, *, force: bool = False, kind: Kind = "G") -> Start:
    """Decide what a run begins from, by file names alone.

    D is written before G, so one newer D without its G is the trace of a kill inside a save and is
    passed over; a G without its D, or several D without their G, are lost files.

    Args:
        run_dir: folder of the run; it need not exist.
        resume: ``auto``, ``never``, or the path of a ``G_<step>.pth`` or of a folder with some.
        force: let a base model come without its D.
        kind: of the run; "V" looks for ``V_<step>.pth`` in the place of G.

    Returns:
        The start.

    Raises:
        CheckpointError: a G without its D, or the other way round.
        MissingFileError: the path given does not exist or holds no checkpoint.
    """
    if resume not in ("auto", "never"):
        return _start_from(Path(resume), kind)
    steps = [step_of(path) or 0 for path in list_checkpoints(run_dir, kind)]
    newest = max(steps, default=0)
    lonely = cut_off_saves(run_dir, kind)
    if resume == "auto" and len(lonely) > 1:
        raise CheckpointError(
            f"{run_dir} has {', '.join(file.name for file in lonely)} without the {kind} files of "
            f"these steps; {_way_out(run_dir, _complete_steps(run_dir, kind), kind)}"
        )
    if resume == "auto" and newest > 0:
        return _pair(run_dir, newest, kind)
    if 0 in steps:
        base = run_dir / f"{kind}_0.pth"
        partner: Path | None = run_dir / "D_0.pth"
        if partner is not None and not partner.is_file():
            if not force:
                raise CheckpointError(
                    f"the base model {base} has no D_0.pth beside it; put that there too, or add "
                    "--force to begin with a new discriminator"
                )
            partner = None
        return Start("base", base, partner)
    return Start("fresh")


def cut_off_saves(run_dir: Path, kind: Kind = "G") -> list[Path]:
    """Return the D files that are newer than every G (or V).

    A save writes D first, so a kill in between leaves one.
    """
    newest = max((step_of(file) or 0 for file in list_checkpoints(run_dir, kind)), default=0)
    return [file for file in list_checkpoints(run_dir, "D") if (step_of(file) or 0) > newest]


def _start_from(path: Path, kind: Kind) -> Start:
    if path.is_dir():
        files = [file for file in list_checkpoints(path, kind) if step_of(file) != 0]
        if not files:
            raise MissingFileError(f"--resume {path}: the folder holds no {kind}_<step>.pth")
        return _pair(path, step_of(files[-1]) or 0, kind)
    if not path.is_file():
        raise MissingFileError(
            f"--resume {path} is not there; give auto, never or an existing {kind}_*.pth"
        )
    step = step_of(path)
    if step is None or not path.name.startswith(f"{kind}_"):
        raise CheckpointError(
            f"--resume {path}: the name must be {kind}_<step>.pth, with D_<step>.pth beside it"
        )
    return _pair(path.parent, step, kind)


def _pair(folder: Path, step: int, kind: Kind) -> Start:
    generator, discriminator = folder / f"{kind}_{step}.pth", folder / f"D_{step}.pth"
    if discriminator.is_file():
        return Start("resume", generator, discriminator, step)
    others = [at for at in _complete_steps(folder, kind) if at != step]
    there = sorted(step_of(file) or 0 for file in list_checkpoints(folder, "D"))
    found = f"the newest D there is D_{there[-1]}.pth" if there else "there is no D there at all"
    raise CheckpointError(
        f"{generator} has no D_{step}.pth beside it ({found}), and training cannot go on without; "
        + _way_out(folder, others, kind)
    )


def _complete_steps(folder: Path, kind: Kind) -> list[int]:
    """Steps above 0 of which G (or V) and D are both there, newest first."""
    pairs = [{step_of(file) for file in list_checkpoints(folder, name)} for name in (kind, "D")]
    return sorted((step for step in pairs[0] & pairs[1] if step), reverse=True)


def _way_out(folder: Path, steps: list[int], kind: Kind) -> str:
    if steps:
        return f"the last complete pair is --resume {folder / f'{kind}_{steps[0]}.pth'}"
    return "there is no older pair; restore the file, or begin again with --resume never"


def load_pair(start: Start) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read the checkpoints of a start.

    Args:
        start: base or resume.

    Returns:
        The dictionaries of G and of D (None when the base model has none).

    Raises:
        CheckpointError: one of them is unreadable; names it and, by reading them, the last good
            pair.
    """
    if start.generator is None:
        raise ValueError("a fresh start has no checkpoints")
    try:
        return _load_two(start.generator, start.discriminator, verify=start.kind == "resume")
    except CheckpointError as error:
        if start.kind == "base":
            raise
        folder = start.generator.parent
        kind: Kind = "V" if start.generator.name.startswith("V_") else "G"
        older = [step for step in _complete_steps(folder, kind) if step != start.step]
        good = [step for step in older if _readable(folder, step, kind)][:1]
        way = _way_out(folder, good, kind)
        raise CheckpointError(f"{error}. Nothing was started; {way}") from error


def _load_two(
    generator: Path, discriminator: Path | None, *, verify: bool
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    paths = [path for path in (generator, discriminator) if path is not None]
    two = [load_checkpoint(path, verify=verify) for path in paths]
    for path, content in zip(paths, two, strict=True):
        if not isinstance(content.get("model"), Mapping) or not content["model"]:
            what = "vocoder" if generator.name.startswith("V_") else "voice"
            raise CheckpointError(f'{path}: holds no "model"; it is not a checkpoint of a {what}')
    return two[0], two[1] if len(two) == 2 else None


def _readable(folder: Path, step: int, kind: Kind) -> bool:
    try:
        _load_two(folder / f"{kind}_{step}.pth", folder / f"D_{step}.pth", verify=True)
    except SvcError:
        return False
    return True


def check_same_voice(
    config: SvcConfig,
    model: Mapping[str, Any] | None,
    speakers: Mapping[str, int] | None,
    where: Path,
) -> None:
    """Refuse to go on with a checkpoint that was trained for another net or other speakers.

    Args:
        config: the config now.
        model: the model section the checkpoint was trained with; None when it is not known.
        speakers: its speakers; None when they are not known.
        where: the checkpoint, for the message.

    Raises:
        ConfigError: names what differs and the ways on.
    """
    ways = "use another --model name, --resume never to begin again, or --force"
    if model is not None:
        now = config.to_dict()["model"]
        names = {item.name for item in dataclasses.fields(ModelConfig)} - _WITHOUT_EFFECT
        defaults = {
            item.name: item.default
            for item in dataclasses.fields(ModelConfig)
            if item.default is not dataclasses.MISSING
        }
        differing = [
            f"{name} {model.get(name, defaults.get(name))!r} -> "
            f"{now.get(name, defaults.get(name))!r}"
            for name in sorted(names)
            if model.get(name, defaults.get(name)) != now.get(name, defaults.get(name))
        ]
        if differing:
            raise ConfigError(
                f"the model section of {config.path} differs from the one {where} was trained with "
                f"({'; '.join(differing)}); {ways}"
            )
    if speakers is not None and dict(speakers) != config.spk:
        raise ConfigError(
            f"{where} was trained for the speakers {dict(speakers)} and {config.path} has "
            f"{config.spk}; {ways}"
        )


def publish_config(config: RunConfig, run_dir: Path) -> Path | None:
    """Copy the config file into the run folder, byte for byte, keeping an earlier one that differs.

    Args:
        config: a config that was read from a file.
        run_dir: folder of the run.

    Returns:
        Where the earlier config was moved to, if there was one with other content.

    Raises:
        OutputError: the folder cannot be written.
    """
    if config.path is None:
        raise ValueError("the config was not read from a file")
    return publish(config.path.read_bytes(), run_dir / "config.json")


def publish(content: bytes, target: Path) -> Path | None:
    """Write a file of a run, keeping an earlier one that differs under a numbered name.

    Args:
        content: of the file.
        target: the file.

    Returns:
        Where the earlier one was moved to, if there was one with other content.

    Raises:
        OutputError: the folder cannot be written.
    """
    make_folder(target.parent)
    backup = None
    if target.is_file():
        earlier = target.read_bytes()
        if earlier == content:
            return None
        backup = _unused(target.parent, f"{target.stem}.{{}}{target.suffix}")
        with atomic_path(backup) as temporary:
            temporary.write_bytes(earlier)
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    return backup


def remove_halves(run_dir: Path) -> list[str]:
    """Remove what saves that were killed have left in a run's folder and the folders in it; returns
    lines for the log.
    """
    notes = []
    for file in (*run_dir.glob(".tmp-*"), *run_dir.glob("*/.tmp-*")):
        file.unlink(missing_ok=True)
        notes.append(f"removed {file}: half of a save that was killed")
    return notes


def set_aside(run_dir: Path, after: int, more: Iterable[Path] = ()) -> Path | None:
    """Move checkpoints of steps above `after` into a sub-folder.

    Left where they are, the next ``--resume auto`` would take them for the newest of this run.

    Args:
        run_dir: folder of the run.
        after: step the run now begins from; 0 moves all but base models.
        more: further files of these steps.

    Returns:
        The sub-folder, or None when nothing had to move.

    Raises:
        OutputError: a file cannot be moved.
    """
    files = [
        file
        for kind in "GVD"
        for file in list_checkpoints(run_dir, kind)
        if (step_of(file) or 0) > after
    ]
    return move_aside(run_dir, [*files, *more])


def move_aside(run_dir: Path, files: Iterable[Path]) -> Path | None:
    """Move files of a run into a new sub-folder ``earlier_<n>``.

    Args:
        run_dir: folder of the run.
        files: in it or below it; they keep their place relative to it.

    Returns:
        The sub-folder, or None when there are no files.

    Raises:
        OutputError: a file cannot be moved.
    """
    folder = None
    for file in files:
        folder = folder or make_folder(_unused(run_dir, "earlier_{}"))
        target = folder / file.relative_to(run_dir)
        make_folder(target.parent)
        try:
            file.replace(target)
        except OSError as error:
            raise output_error(target, error) from error
    return folder


def _unused(folder: Path, pattern: str) -> Path:
    return next(
        path
        for number in itertools.count(1)
        if not (path := folder / pattern.format(number)).exists()
    )
