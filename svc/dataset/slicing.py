"""Long recordings to clips of a few seconds, cut at silences (`svc slice`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svc.audio.io import AUDIO_SUFFIXES, read_audio, write_audio
from svc.audio.slicer import split_clips
from svc.dataset.clips import LeftOut, check_wav, inside, unique_stems
from svc.dataset.filelist import audio_in, existing_folder, scan_speakers
from svc.dataset.pool import run_jobs
from svc.errors import ConfigError, DatasetError
from svc.progress import Progress, silent

_BLOCK = 1 << 20  # samples looked at together when the sample format is found out


@dataclass(frozen=True)
class SliceOptions:
    """What `slice_dataset` does."""

    in_dir: Path = Path(
        "dataset_raw_long"
    )  # one sub-folder per speaker, or loose files and `speaker`
    out_dir: Path = Path("dataset_raw")
    speaker: str | None = None  # folder name for loose files
    threshold_db: float = -40.0  # dBFS; quieter frames are silence
    min_seconds: float = 5.0
    max_seconds: float = 15.0  # hard maximum
    min_interval_ms: tuple[int, ...] = (300, 100, 50)  # shortest silences to cut at, tried in order
    hop_ms: int = 10  # step of the loudness curve
    max_silence_ms: int = 500  # silence kept at the ends of a clip

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds < self.max_seconds:
            raise ConfigError(
                f"--min_seconds ({self.min_seconds:g}) must be above 0 and below --max_seconds "
                f"({self.max_seconds:g})"
            )
        if not -120.0 <= self.threshold_db < 0.0:
            raise ConfigError(f"--slice_db must be between -120 and 0, found {self.threshold_db:g}")
        if self.hop_ms < 1 or self.max_silence_ms < self.hop_ms:
            raise ConfigError(
                f"--hop_ms ({self.hop_ms}) must be at least 1 and --max_silence_kept "
                f"({self.max_silence_ms}) not below it"
            )
        if not self.min_interval_ms or min(self.min_interval_ms) < self.hop_ms:
            raise ConfigError(
                f"--min_interval must be one or more lengths of at least --hop_ms ({self.hop_ms}) "
                f"milliseconds, found {list(self.min_interval_ms)}"
            )
        name = self.speaker
        if name is not None and (not name.strip() or "/" in name or "\\" in name or name[0] == "."):
            raise ConfigError(f'--speaker must be the name of a folder, found "{name}"')


@dataclass(frozen=True)
class DroppedPart:
    """A stretch of a recording that is in no clip."""

    start_s: float
    end_s: float
    reason: str  # "silent", "too short"


@dataclass(frozen=True)
class SlicedFile:
    """What became of one recording."""

    source: Path
    clips: list[Path]
    kept_s: float
    dropped: list[DroppedPart]


@dataclass
class SliceReport:
    """What `slice_dataset` did."""

    files: list[SlicedFile] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)  # unreadable recordings
    notes: list[str] = field(default_factory=list)

    @property
    def clip_count(self) -> int:
        """Number of clips written."""
        return sum(len(file.clips) for file in self.files)


@dataclass(frozen=True)
class _Job:
    source: Path
    folder: Path
    stem: str


def slice_dataset(options: SliceOptions, progress: Progress | None = None) -> SliceReport:
    """Cut every recording of every speaker into clips named ``<stem>_<number>.wav``, mono, at their
    own rate.

    A clip has 16 bits where the recording has no more, else 24 (or floats, when it goes beyond full
    scale): nothing is lost before `svc resample`.

    Args:
        options: folders and lengths.
        progress: called after each recording.

    Returns:
        The clips of each recording, what was dropped from it and why, and the recordings that could
        not be read.

    Raises:
        DatasetError: no recordings, or not one clip came out.
        ConfigError: the output folder is the input folder or lies in it.
        OutputError: nothing can be written there.
    """
    if inside(options.out_dir, options.in_dir):
        raise ConfigError(
            f"--out_dir {options.out_dir} lies in --in_dir {options.in_dir}: its clips would be "
            "cut again the next time; choose another folder"
        )
    report = SliceReport()
    jobs = _plan(options, report)
    tell = progress or silent
    outcomes = run_jobs(lambda _: lambda job: _slice_file(job, options), jobs, jobs=1)
    for done, outcome in enumerate(outcomes, start=1):
        if outcome.result is None:
            report.left_out.append(LeftOut(outcome.task.source, outcome.error or "unknown"))
        else:
            report.files.append(outcome.result)
            _note_leftovers(outcome.task, outcome.result, report)
        tell(done, len(jobs), outcome.task.source.name)
    _note_short(options, report)
    if report.clip_count == 0:
        reasons = [f"{item.path}: {item.reason}" for item in report.left_out]
        reasons += [
            f"{file.source}: {part.reason} from {part.start_s:.1f} to {part.end_s:.1f} s"
            for file in report.files
            for part in file.dropped
        ]
        raise DatasetError(
            f"no clip came out of the {len(jobs)} recordings in {options.in_dir}"
            + (f"; the first reason: {reasons[0]}" if reasons else "")
        )
    return report


def _plan(options: SliceOptions, report: SliceReport) -> list[_Job]:
    root = existing_folder(options.in_dir)
    loose = audio_in(root, AUDIO_SUFFIXES)
    by_speaker: dict[str, list[Path]] = {}
    if not loose or options.speaker is None:
        if loose and not any(entry.is_dir() for entry in root.iterdir()):
            raise DatasetError(
                f"{root} has {len(loose)} recordings directly in it; name their voice with "
                "--speaker NAME, or put them into a sub-folder named after it, like "
                f'"{root / "alice" / loose[0].name}"'
            )
        by_speaker = scan_speakers(root, AUDIO_SUFFIXES)
        if loose:
            report.notes.append(
                f"{len(loose)} recordings directly in {root} were left alone (the first: "
                f"{loose[0].name}); name their voice with --speaker NAME"
            )
    else:
        if any(entry.is_dir() for entry in root.iterdir() if not entry.name.startswith(".")):
            by_speaker = scan_speakers(root, AUDIO_SUFFIXES)
        by_speaker[options.speaker] = [*by_speaker.get(options.speaker, []), *loose]
    return [
        _Job(source, options.out_dir / speaker, stem)
        for speaker, files in sorted(by_speaker.items())
        for source, stem in unique_stems(files).items()
    ]


def _slice_file(job: _Job, options: SliceOptions) -> SlicedFile:
    wav, sr, subtype = _read_for_copy(job.source)
    check_wav(wav, sr)
    segments, dropped = split_clips(
        wav,
        sr,
        threshold_db=options.threshold_db,
        min_seconds=options.min_seconds,
        max_seconds=options.max_seconds,
        min_interval_ms=options.min_interval_ms,
        hop_ms=options.hop_ms,
        max_silence_ms=options.max_silence_ms,
    )
    clips, kept = [], 0
    digits = max(3, len(str(len(segments))))
    for number, segment in enumerate(segments, start=1):
        target = job.folder / f"{job.stem}_{number:0{digits}d}.wav"
        write_audio(target, wav[segment.start : segment.end], sr, subtype=subtype)
        clips.append(target)
        kept += segment.end - segment.start
    parts = [DroppedPart(part.start / sr, part.end / sr, part.reason) for part in dropped]
    return SlicedFile(job.source, clips, kept / sr, parts)


def _read_for_copy(path: Path) -> tuple[npt.NDArray[np.float32], int, str]:
    """Read a recording as mono and find the smallest sample format that holds its channels
    exactly.
    """
    channels, sr = read_audio(path, mono=False)
    if max(float(np.max(np.abs(channel), initial=0.0)) for channel in channels) > 1.0:
        subtype = "FLOAT"
    elif all(_is_16_bit(channel) for channel in channels):
        subtype = "PCM_16"
    else:
        subtype = "PCM_24"
    mono = channels[0] if len(channels) == 1 else channels.mean(axis=0, dtype=np.float32)
    return mono, sr, subtype


def _is_16_bit(channel: npt.NDArray[np.float32]) -> bool:
    for start in range(0, len(channel), _BLOCK):
        levels = channel[start : start + _BLOCK] * np.float32(32768)
        if not np.array_equal(levels, np.rint(levels)):
            return False
    return True


def _note_short(options: SliceOptions, report: SliceReport) -> None:
    """Point out recordings that are clips already; losing all of them would be a surprise."""
    short = [
        file.source
        for file in report.files
        if not file.clips
        and sum(part.end_s - part.start_s for part in file.dropped) < options.min_seconds
    ]
    if short:
        report.notes.append(
            f"{len(short)} recordings are shorter than --min_seconds {options.min_seconds:g} (the "
            f"first: {short[0].name}) and gave no clip; they need no cutting: copy them into "
            f"{options.out_dir} as they are, or choose a smaller --min_seconds"
        )


def _note_leftovers(job: _Job, result: SlicedFile, report: SliceReport) -> None:
    written = {clip.name for clip in result.clips}
    pattern = re.compile(re.escape(job.stem) + r"_\d{3,}\.wav")
    extra = [
        file.name
        for file in (audio_in(job.folder) if job.folder.is_dir() else [])
        if pattern.fullmatch(file.name) and file.name not in written
    ]
    if extra:
        report.notes.append(
            f"{job.folder} holds {len(extra)} clips of {job.source.name} from an earlier run (the "
            f"first: {extra[0]}); delete them, or parts of the recording are used twice"
        )
