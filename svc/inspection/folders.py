"""Folders: a run, an exported voice, an index, a model of Hugging Face, a data set, anything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from svc.audio.io import AUDIO_SUFFIXES
from svc.checkpoint import list_checkpoints
from svc.config.bundle import MANIFEST
from svc.errors import SvcError
from svc.inspection.packs import PACK
from svc.inspection.report import Fact, Finding, Report, Safety
from svc.inspection.retrieval import index_folder
from svc.inspection.texts import HUGGING_FACE_CONFIG
from svc.retrieval.index_files import SIDE_CAR_NAME
from svc.safe_pickle import printable
from svc.speech.hugging_face import CONFIG, find_weights
from svc.vocoder.files import CONFIG_NAME as VOCODER_CONFIG
from svc.vocoder.files import weights_in

_LISTED = 60  # files that are opened; of more they are counted by suffix
_CLIP_PARTS = (".soft.pt", ".spec.pt", ".f0.npy", ".vol.npy", ".mel.npy", ".aug_mel.npy",
               ".aug_vol.npy", ".meta.json")  # fmt: skip
_MOST = 5  # faults that are told

Look = Callable[[Path], Report]


def describe_folder(folder: Path, look: Look) -> Report:
    """Describe a folder.

    Args:
        folder: an existing one.
        look: inspects one file.

    Returns:
        Its report: what is in it, the newest checkpoint of a run, and whatever is unsafe or damaged.
    """
    try:
        entries = sorted(folder.iterdir())
        files = [entry for entry in entries if entry.is_file()]
        size = sum(file.stat().st_size for file in files)
    except OSError as error:
        damage = f"cannot be read: {error.strerror or error}"
        finding = Finding("folder", "a folder that cannot be read", damage=damage)
        return Report(folder, finding, Safety(None, "it was not read"), 0)
    names = {file.name for file in files}
    if MANIFEST in names:
        report = look(folder / MANIFEST)
        return _of_parts(
            folder, report, [file for file in files if file.suffix == ".onnx"], look, size
        )
    if SIDE_CAR_NAME in names:
        finding = index_folder(folder)
        return Report(folder, finding, finding.safety or Safety(None, "it was not read"), size)
    if CONFIG in names and look(folder / CONFIG).finding.kind == HUGGING_FACE_CONFIG:
        return _hugging_face(folder, look, size)
    return _listing(folder, files, [entry for entry in entries if entry.is_dir()], look, size)


def _of_parts(folder: Path, whole: Report, parts: list[Path], look: Look, size: int) -> Report:
    """The report on a folder whose manifest says what it is, once its parts are looked at."""
    reports = [look(part) for part in parts]
    safety, damage = _verdict(reports)
    finding = replace(whole.finding, what="voice exported to ONNX (folder)")
    if finding.damage is None and damage is not None:
        finding = replace(finding, damage=damage)
    return Report(folder, finding, safety, size, match=whole.match, notes=whole.notes)


def _hugging_face(folder: Path, look: Look, size: int) -> Report:
    what = "folder of Hugging Face's transformers"
    try:
        weights = find_weights(folder)
    except SvcError as error:
        finding = Finding("encoder", what, damage=str(error))
        return Report(folder, finding, Safety(None, "it was not loaded"), size)
    report = look(weights)
    facts: dict[str, Fact] = {"weights": weights.name, **report.finding.facts}
    finding = replace(report.finding, what=f"{what}, {report.finding.what}", facts=facts)
    if finding.fits and "--speech_encoder" in finding.fits[0]:
        finding = replace(finding, fits=(f"{finding.fits[0]} --encoder_path {folder}",))
    return Report(folder, finding, report.safety, size, match=report.match, notes=report.notes)


def _listing(folder: Path, files: list[Path], folders: list[Path], look: Look, size: int) -> Report:
    """The report on a folder that is told by what lies in it."""
    runs = {kind: list_checkpoints(folder, kind) for kind in "GD"}
    older = {path for paths in runs.values() for path in paths[:-1]}
    clips = [file for file in files if file.name.endswith(_CLIP_PARTS) or _is_audio(file)]
    rest = [file for file in files if file not in older and file not in clips]
    opened = rest[:_LISTED]
    reports = {file: look(file) for file in opened}
    facts: dict[str, Fact] = {}
    for kind, paths in runs.items():
        if paths:
            steps = [path.stem.partition("_")[2] for path in paths]
            facts[f"{kind}_checkpoints"] = f"{len(paths)}: steps {', '.join(steps[-_MOST:])}"
            facts[f"newest_{kind}"] = paths[-1].name
    facts |= {printable(file.name): _brief(report) for file, report in reports.items()}
    if len(rest) > len(opened):
        facts["further_files"] = len(rest) - len(opened)
    facts |= _clip_facts(clips)
    vocoders = {sub: look(found) for sub in folders if (found := _vocoder_in(sub)) is not None}
    facts |= {
        f"{printable(sub.name)}/": _brief(vocoders[sub]) if sub in vocoders else _inside(sub)
        for sub in folders
    }
    safety, damage = _verdict([*reports.values(), *vocoders.values()])
    newest = reports.get(runs["G"][-1]) if runs["G"] else None
    kind, what = "folder", "folder"
    if newest is not None:
        kind, what = "run", "folder of a training run"
    elif len(clips) > len(rest) or (_only_packs(reports) and any(map(_has_audio, folders))):
        kind, what = "data set", "folder of recordings"
    finding = Finding(
        kind,
        what,
        facts,
        fits=newest.finding.fits if newest is not None else (),
        damage=damage,
    )
    notes = (
        () if not older else (f"of {len(older)} older checkpoints only the names were looked at",)
    )
    match = newest.match if newest is not None else None
    return Report(folder, finding, safety, size, match=match, notes=notes)


def _only_packs(reports: Mapping[Path, Report]) -> bool:
    """Whether nothing lies beside the folders of the speakers but what is made of them."""
    return all(report.finding.kind == PACK for report in reports.values())


def _brief(report: Report) -> str:
    what = report.finding.what
    if report.safety.safe is False:
        return f"{what}: NOT SAFE: {report.safety.how}"
    return what if report.damage is None else f"{what}: DAMAGED: {report.damage}"


def _verdict(reports: list[Report]) -> tuple[Safety, str | None]:
    """The verdict on a folder from those on its files."""
    hostile = [report for report in reports if report.safety.safe is False]
    broken = [report for report in reports if report.damage is not None]
    damage = None
    if broken:
        names = ", ".join(printable(report.path.name) for report in broken[:_MOST])
        damage = f"{len(broken)} of its files: {names}"
    if hostile:
        how = "; ".join(
            f"{printable(report.path.name)}: {report.safety.how}" for report in hostile[:_MOST]
        )
        names_ = tuple(name for report in hostile for name in report.safety.refused)
        return Safety(False, how, refused=names_), damage
    if not reports:
        return Safety(None, "no file was opened"), damage
    return Safety(True, "each file opened was read without running anything"), damage


def _is_audio(file: Path) -> bool:
    return file.suffix.lower() in AUDIO_SUFFIXES


def _clip_facts(clips: list[Path]) -> dict[str, Fact]:
    counts = Counter(
        next((part for part in _CLIP_PARTS if file.name.endswith(part)), file.suffix.lower())
        for file in clips
    )
    return {f"*{suffix}": count for suffix, count in sorted(counts.items())}


def _has_audio(folder: Path) -> bool:
    try:
        return any(_is_audio(file) for file in folder.iterdir())
    except OSError:
        return False


def _vocoder_in(folder: Path) -> Path | None:
    """Return the weights of the vocoder that a folder holds, as those under pretrain/ do."""
    try:
        return weights_in(folder) if (folder / VOCODER_CONFIG).is_file() else None
    except OSError:
        return None


def _inside(folder: Path) -> str:
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        return f"folder that cannot be read: {error.strerror or error}"
    return f"folder of {len(names)} {'entry' if len(names) == 1 else 'entries'}"
