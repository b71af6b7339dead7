"""Bringing the pack of a data set up to date: the last stage of ``svc preprocess``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svc.audio.io import audio_info, read_audio
from svc.dataset.clip_arrays import read_parts, same_content, smallest, states_of
from svc.dataset.clips import LeftOut
from svc.dataset.feature_settings import MEL_PARTS, FeatureSettings
from svc.dataset.features import read_meta
from svc.dataset.fingerprint import same_recording, same_time
from svc.dataset.pack import NAME, FileState, Key, Pack, key_of
from svc.dataset.pack_writer import NewClip, PackWriter, write_pack
from svc.dataset.store import peak_of
from svc.errors import DatasetError, SvcError
from svc.progress import Progress, silent

_INDEX_BYTES = 1500  # of one clip in the index, generously
_NEEDED = ("units", "f0")
"""Features without which a clip is of no use."""
_FEATURES = (*_NEEDED, "volume", *MEL_PARTS)


@dataclass
class PackReport:
    """What `pack_dataset` did."""

    path: Path
    added: int = 0  # clips whose files were read
    kept: int = 0  # clips that the earlier pack had already
    removed: int = 0  # clips of the earlier pack that are gone
    written: bool = False  # False: all of it was up to date
    size: int = 0  # bytes of the file
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True)
class _Plan:
    """What is to be done with a clip."""

    wav: Path
    known: NewClip | None = None  # out of the earlier pack; None: its files are read
    noted: bool = False  # the earlier pack has it just so
    need: int = 0  # bytes it will take


def pack_dataset(
    root: Path,
    wavs: Sequence[Path],
    settings: FeatureSettings,
    *,
    progress: Progress | None = None,
) -> PackReport:
    """Put recordings and features into one file, ``features.pack``.

    Clips whose files are as they were when the earlier pack was written are copied from it, and
    where that is true of all of them, nothing is written. A feature file that is gone meanwhile is
    no change: the earlier pack has what was in it.

    Args:
        root: folder of the data set.
        wavs: clips in its sub-folders; the pack will hold these and no others.
        settings: encoder, rate and hop that features have to be of.
        progress: called after each clip that is written.

    Returns:
        Counts, and the clips that are not in it, with reasons.

    Raises:
        DatasetError: not one clip can be packed.
        OutputError: the pack cannot be written; the earlier one stays.
    """
    report = PackReport(root / NAME)
    earlier = _open_earlier(report.path)
    plans: list[_Plan] = []
    for wav in wavs:
        try:
            plans.append(_plan(wav, settings, earlier))
        except SvcError as error:
            report.left_out.append(LeftOut(wav, str(error)))
    names = {key_of(plan.wav) for plan in plans}
    if earlier is not None and earlier.clips.keys() == names and all(p.noted for p in plans):
        report.kept, report.size = len(plans), earlier.size
        return report
    before: set[Key] = set() if earlier is None else set(earlier.clips)
    written = _write(plans, settings, report, earlier, progress or silent)
    report.removed = len(before - written)
    return report


def _write(
    plans: list[_Plan],
    settings: FeatureSettings,
    report: PackReport,
    earlier: Pack | None,
    tell: Progress,
) -> set[Key]:
    with write_pack(report.path, sum(plan.need for plan in plans)) as writer:
        written = _add(writer, plans, settings, report, tell)
        if not written:
            first = report.left_out[0] if report.left_out else LeftOut(report.path, "no clips")
            raise DatasetError(
                f"there is nothing to put into {report.path}; the first clip: {first.path}: "
                f"{first.reason}"
            )
        plans.clear()  # with it the last views of the earlier pack
        if earlier is not None:
            earlier.close()
    report.written, report.size = True, report.path.stat().st_size
    return written


def _add(
    writer: PackWriter,
    plans: Sequence[_Plan],
    settings: FeatureSettings,
    report: PackReport,
    tell: Progress,
) -> set[Key]:
    """Append all clips that can be read; returns which these are."""
    written: set[Key] = set()
    for done, plan in enumerate(plans, start=1):
        try:
            writer.add(plan.known or read_clip(plan.wav, settings))
        except SvcError as error:
            report.left_out.append(LeftOut(plan.wav, str(error)))
        else:
            report.kept += plan.known is not None
            report.added += plan.known is None
            written.add(key_of(plan.wav))
        tell(done, len(plans), plan.wav.name)
    return written


def read_clip(wav: Path, settings: FeatureSettings) -> NewClip:
    """Read a clip as it goes into a pack.

    Args:
        wav: the recording.
        settings: what its features have to be made with.

    Returns:
        Recording, units and F0, and what else there is and belongs to it.

    Raises:
        SvcError: a file is absent or damaged, or does not belong to the recording or the settings.
    """
    # Before the contents: what is changed while they are read must show afterwards.
    files = states_of(wav)
    meta = _meta_of(wav, settings)
    parts = _usable_parts(files, meta)
    samples, rate = read_audio(wav)
    if rate != settings.sampling_rate:
        raise DatasetError(
            f"{wav} has {rate} Hz and the config says {settings.sampling_rate} Hz; run  svc resample"
        )
    return NewClip(
        key=key_of(wav),
        rate=rate,
        peak=peak_of(samples),
        files={part: files[part] for part in ("wav", *parts)},
        made=None if meta is None else {part: meta[part] for part in parts if part in meta},
        arrays={"wav": smallest(samples), **read_parts(wav, parts)},
    )


def _open_earlier(path: Path) -> Pack | None:
    """The pack of an earlier run, if there is one and it is whole."""
    try:
        return Pack(path) if path.is_file() else None
    except DatasetError:
        return None


def _meta_of(wav: Path, settings: FeatureSettings) -> dict[str, Any] | None:
    """The side-car of a clip, if there is one; its features have to belong to the clip."""
    meta = read_meta(wav)
    if meta is None:
        return None
    if not same_recording(wav, meta.get("wav")):
        raise DatasetError(f"{wav} has changed since its features were made")
    mismatch = settings.mismatch(meta, _NEEDED)
    if mismatch is not None:
        raise DatasetError(f"{wav}: its {mismatch}")
    return meta


def _usable_parts(files: Mapping[str, FileState], meta: Mapping[str, Any] | None) -> list[str]:
    """Features that are there and, as far as the side-car tells, of this recording."""
    parts = [part for part in _FEATURES if part in files]
    # Like `FeatureCache`: what the side-car is silent about is the original's, mels excepted.
    stale = {part for part in MEL_PARTS if meta is not None and part not in meta}
    whole = all(part in files and part not in stale for part in MEL_PARTS)
    return [part for part in parts if whole or part not in MEL_PARTS]


def _plan(wav: Path, settings: FeatureSettings, earlier: Pack | None) -> _Plan:
    files = states_of(wav)
    known = None if earlier is None else _known(wav, files, settings, earlier)
    if known is not None and earlier is not None:
        clip = earlier.clips[known.key]
        need = _INDEX_BYTES + sum(place.end - place.offset for place in clip.arrays.values())
        return _Plan(wav, known, known.files == clip.files, need)
    for part in _NEEDED:
        if part not in files:
            raise DatasetError(f"{wav}: its {part} are not there; run  svc preprocess")
    parts = _usable_parts(files, _meta_of(wav, settings))
    info = audio_info(wav)
    short = info.channels == 1 and files["wav"].size < 2.5 * info.n_samples  # 16 bits or fewer
    need = _INDEX_BYTES + (2 if short else 4) * info.n_samples
    return _Plan(wav, need=need + sum(files[part].size for part in parts))


def _known(
    wav: Path, files: Mapping[str, FileState], settings: FeatureSettings, earlier: Pack
) -> NewClip | None:
    """A clip of the earlier pack with the times of its files now; None where it has to be read."""
    clip = earlier.get(wav)
    if clip is None or "wav" not in files or settings.mismatch(clip.made or {}, _NEEDED):
        return None
    states = dict(clip.files)
    for part, known in clip.files.items():
        now = files.get(part)
        if now is None or now == known:
            continue
        if now.size != known.size:
            return None
        if not same_time(now.mtime_ns, known.mtime_ns):
            if not same_content(wav, part, earlier, clip):
                return None
            states[part] = now
    if not set(files) <= set(clip.files) and set(_usable_parts(files, read_meta(wav))) - set(
        clip.arrays
    ):
        return None  # there is more of it now
    arrays = {part: earlier.array(clip, part) for part in clip.arrays}
    return NewClip(clip.key, clip.rate, clip.peak, states, clip.made, arrays)
