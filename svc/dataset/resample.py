"""Recordings at any rate and level to the level-matched clips a voice is trained on (`svc
resample`).

so-vits-svc 4.1 behaviour, spec_core 6.2, with the recommendations D3, D4 and D10 of section 10.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from svc.audio.io import AUDIO_SUFFIXES, read_audio, write_audio
from svc.audio.loudness import lufs_normalize, peak_normalize, trim_silence
from svc.audio.resample import resample
from svc.dataset.clips import LeftOut, check_wav, inside, unique_stems
from svc.dataset.filelist import audio_in, scan_speakers
from svc.dataset.pool import job_count, run_jobs
from svc.errors import ConfigError, DatasetError
from svc.progress import Progress, silent

Loudness = Literal["peak", "lufs", "none"]
_TRIM_DB = 40.0  # below the file's loudest frame
_OVERSHOOT_PEAK = 0.98  # where a float recording beyond full scale is brought to
_MIN_RATE, _MAX_RATE = 8000, 192000  # Hz


@dataclass(frozen=True)
class ResampleOptions:
    """What `resample_dataset` does."""

    in_dir: Path = Path("dataset_raw")  # one sub-folder of recordings per speaker
    out_dir: Path = Path("dataset/44k")
    sampling_rate: int = 44100  # Hz
    loudness: Loudness = "peak"  # peak 1.0, or -18 LUFS with a limiter, or as recorded
    jobs: int | None = None  # processes; None = as many as suit the machine, 0 = one per CPU

    def __post_init__(self) -> None:
        if self.loudness not in get_args(Loudness):
            raise ConfigError(
                f"--loudness must be one of {', '.join(get_args(Loudness))}, found "
                f'"{self.loudness}"'
            )
        if not _MIN_RATE <= self.sampling_rate <= _MAX_RATE:
            raise ConfigError(
                f"--sr2 must be between {_MIN_RATE} and {_MAX_RATE} Hz, found {self.sampling_rate}"
            )
        if self.jobs is not None and self.jobs < 0:
            raise ConfigError(f"--jobs must be 0 or more, found {self.jobs}")


@dataclass
class ResampleReport:
    """What `resample_dataset` did."""

    seconds: dict[str, float] = field(default_factory=dict)  # written, by speaker
    written: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)  # unreadable, silent, too short
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    source: Path
    target: Path


def resample_dataset(options: ResampleOptions, progress: Progress | None = None) -> ResampleReport:
    """Bring every recording of every speaker to one rate and level, mono, 16 bit.

    Trims silence at both ends, resamples, normalises, and writes
    ``<out_dir>/<speaker>/<stem>.wav``. Every file is written anew, and atomically. A recording that
    cannot be used is reported and does not stop the others.

    Args:
        options: folders, rate, loudness, processes.
        progress: called after each recording.

    Returns:
        What was written and what was left out, with reasons.

    Raises:
        DatasetError: no speakers, or not one usable recording.
        ConfigError: the output folder is the input folder or lies in it.
        OutputError: nothing can be written there.
    """
    if inside(options.out_dir, options.in_dir):
        raise ConfigError(
            f"--out_dir2 {options.out_dir} lies in --in_dir {options.in_dir}: it would be taken "
            "for a speaker and recordings could be overwritten; choose another folder"
        )
    report = ResampleReport()
    speakers = scan_speakers(options.in_dir, AUDIO_SUFFIXES)
    jobs = _plan(options, speakers, report)
    tell = progress or silent
    work = functools.partial(_build, options.sampling_rate, options.loudness)
    outcomes = run_jobs(work, jobs, jobs=job_count(options.jobs))
    for done, outcome in enumerate(outcomes, start=1):
        job = outcome.task
        if outcome.result is None:
            report.left_out.append(LeftOut(job.source, outcome.error or "unknown"))
        else:
            speaker = job.target.parent.name
            report.seconds[speaker] = report.seconds.get(speaker, 0.0) + outcome.result
            report.written.append(job.target)
        tell(done, len(jobs), job.source.name)
    # Several processes end in any order; the report is the same every time.
    report.written.sort()
    report.left_out.sort(key=lambda item: item.path)
    report.seconds = dict(sorted(report.seconds.items()))
    if not report.written:
        first = report.left_out[0]
        raise DatasetError(
            f"not one of the {len(jobs)} recordings in {options.in_dir} could be used; "
            f"the first: {first.path}: {first.reason}"
        )
    return report


def _plan(
    options: ResampleOptions, speakers: dict[str, list[Path]], report: ResampleReport
) -> list[_Job]:
    jobs = []
    for speaker, files in speakers.items():
        stems = unique_stems(files)
        for source, stem in stems.items():
            if stem != source.stem:
                report.notes.append(f"{source} is written as {stem}.wav: its name is taken")
            # Not with_suffix: a stem may hold dots.
            jobs.append(_Job(source, options.out_dir / speaker / f"{stem}.wav"))
        _note_folders(options.in_dir / speaker, report)
        names = {f"{stem}.wav" for stem in stems.values()}
        _note_leftovers(options.out_dir / speaker, names, report)
    loose = audio_in(options.in_dir, AUDIO_SUFFIXES)
    if loose:
        report.notes.append(
            f"{len(loose)} recordings directly in {options.in_dir} belong to no voice and were "
            f"left alone (the first: {loose[0].name})"
        )
    return jobs


def _note_folders(folder: Path, report: ResampleReport) -> None:
    inner = [entry.name for entry in sorted(folder.iterdir()) if entry.is_dir()]
    inner = [name for name in inner if not name.startswith(".")]
    if inner:
        report.notes.append(
            f"{folder} holds {len(inner)} folders that were not looked into (the first: "
            f"{inner[0]}); recordings lie directly in the folder of their voice"
        )


def _note_leftovers(folder: Path, expected: set[str], report: ResampleReport) -> None:
    if not folder.is_dir():
        return
    extra = [file.name for file in audio_in(folder) if file.name not in expected]
    if extra:
        report.notes.append(
            f"{folder} holds {len(extra)} clips that no recording stands for any more (the first: "
            f"{extra[0]}); training would use them: delete them if you do not want that"
        )


def _build(sampling_rate: int, loudness: Loudness, number: int) -> functools.partial[float]:
    return functools.partial(_convert, sampling_rate, loudness)


def _convert(sampling_rate: int, loudness: Loudness, job: _Job) -> float:
    """Write one clip; returns its length in seconds."""
    wav, sr = read_audio(job.source)
    clip = prepare_clip(wav, sr, sampling_rate=sampling_rate, loudness=loudness)
    write_audio(job.target, clip, sampling_rate, subtype="PCM_16")
    return len(clip) / sampling_rate


def prepare_clip(
    wav: npt.NDArray[np.float32], sr: int, *, sampling_rate: int, loudness: Loudness = "peak"
) -> npt.NDArray[np.float32]:
    """Trim, resample and normalise one recording (spec_core 6.2, steps 2-6).

    Args:
        wav: (T,) mono.
        sr: its rate, Hz.
        sampling_rate: the rate wanted, Hz.
        loudness: "peak" brings the largest sample to 1.0, "lufs" the loudness to -18 LUFS under a
            limiter, "none" nothing.

    Returns:
        float32 (T',) in [-1, 1].

    Raises:
        DatasetError: silent, or too short before or after trimming.
    """
    check_wav(wav, sr)
    trimmed = trim_silence(wav, top_db=_TRIM_DB)
    peak = float(np.max(np.abs(trimmed), initial=0.0))
    if peak > 1.0:
        trimmed = trimmed * np.float32(_OVERSHOOT_PEAK / peak)
    clip = np.asarray(resample(trimmed, sr, sampling_rate), dtype=np.float32)
    try:
        check_wav(clip, sampling_rate)
    except DatasetError as error:
        raise DatasetError(f"{error} (after trimming the silence at its ends)") from error
    if loudness == "peak":
        clip = peak_normalize(clip)
    elif loudness == "lufs":
        clip = lufs_normalize(clip, sampling_rate)
    # A resampler may overshoot full scale; 16-bit numbers would wrap around there (spec_core 10,
    # D3).
    return np.clip(clip, -1.0, 1.0).astype(np.float32)
