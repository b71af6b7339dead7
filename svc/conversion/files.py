"""Doing the jobs: songs in files become results in files; a bad file does not stop the others."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from svc.atomic import make_folder, output_error
from svc.audio.io import open_audio
from svc.conversion.channels import check_channels, lost_in_mono, mix_down
from svc.conversion.converter import Converter
from svc.conversion.jobs import Job, Outcome, skipped
from svc.conversion.manifest import RunFacts
from svc.conversion.results import ResultOptions, shape_result
from svc.errors import OutputError, SvcError
from svc.progress import Progress, silent

logger = logging.getLogger(__name__)


def check_writable(folder: Path) -> None:
    """Make sure a folder takes files, before minutes of work go into what could not be saved.

    Raises:
        OutputError: it does not; says why.
    """
    make_folder(folder)
    probe = folder / f".tmp-{secrets.token_hex(4)}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise output_error(folder, error) from error


def convert_files(
    converter: Converter,
    jobs: Sequence[Job],
    *,
    results: ResultOptions | None = None,
    run: RunFacts | None = None,
    skip_existing: bool = False,
    progress: Progress | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_key: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Convert and write every job; what is wrong with one file is recorded and the next one is
    taken.

    A result that cannot be written ends the run: the disk is as full for the next one.

    Args:
        converter: the models, loaded once.
        jobs: what to do.
        results: what the results are written as; None = the defaults.
        run: facts for the manifests beside the results; None = write none.
        skip_existing: leave results alone that are there.
        progress: called as ``(percent done, 100 * jobs, name)``.
        on_outcome: called after each job.
        on_key: called with a line about each transposition that was chosen, before it is sung.

    Returns:
        One outcome per job, in order.
    """
    report = progress or silent
    work = _Work(converter, results or ResultOptions(), run, skip_existing, on_key)
    outcomes: list[Outcome] = []
    stop = ""
    for index, job in enumerate(jobs):
        name = job.source.shown

        def share(
            done: int, total: int, what: str, first: int = 100 * index, name: str = name
        ) -> None:
            del what
            report(first + 100 * done // max(total, 1), 100 * len(jobs), name)

        error_text = ""
        outcome = None
        if stop:
            error_text = f"not tried: {stop}"
        else:
            try:
                outcome = work.convert(job, share)
            except OutputError as error:
                error_text = str(error)
                stop = "the result before it could not be written"
            except SvcError as error:
                error_text = str(error)
            except Exception as error:
                # A fault of ours: tell, keep the traceback, and save the rest of the batch.
                logger.error("%s: unexpected error", job.source.path, exc_info=True)
                error_text = f"unexpected {type(error).__name__}: {error} (please report it)"
        if outcome is None:
            outcome = Outcome(name, job.speaker, error=error_text, source=job.source.path)
        share(1, 1, "")
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    return outcomes


@dataclass(frozen=True)
class _Work:
    """Takes one job from file to file; see `convert_files`."""

    converter: Converter
    results: ResultOptions
    run: RunFacts | None
    skip_existing: bool
    on_key: Callable[[str], None] | None
    checked: set[tuple[str, int, int]] = field(default_factory=set)

    def convert(self, job: Job, progress: Progress) -> Outcome:
        clock = _Clock()
        before = (0, 0) if self.run is None else self.run.features_asked()
        name, path = job.source.shown, job.source.path
        with open_audio(path) as song:
            sr = song.sr
            self._check(job.output, sr, song.channels)
            channels = np.concatenate(list(song.blocks(mono=False)), axis=1)
            tags = song.tags() if self.results.tags else {}
        wav = mix_down(channels)
        voice_sr = self.converter.sampling_rate
        lost = lost_in_mono(channels)
        if lost is not None:
            logger.warning(
                "%s: its channels cancel each other, the voice hears %.0f dB", name, lost
            )
        clock.mark("read")
        singer = job.speaker if job.mix is None else job.mix
        key = self.converter.fit_key(wav, sr, singer, job.options, f0=job.curve)
        if key.chosen and self.on_key is not None:
            self.on_key(f"{name} for {job.speaker}: {key.chosen}")
        if key.warning:
            logger.warning("%s: %s", name, key.warning)
        output = job.target(key.options)
        if self.skip_existing and output.is_file():
            return skipped(job, output)
        clock.mark("choose_key")
        converted = self.converter.convert(
            wav, sr, singer, key.options, f0=job.curve, progress=progress
        )
        clock.mark("convert")
        rate = self.results.rate_of(output, voice_sr, sr)
        made = shape_result(converted, voice_sr, rate, channels, sr, self.results.channels)
        self.results.write(output, made, rate, tags)
        clock.mark("write")
        seconds = channels.shape[1] / sr
        manifest = None
        if self.run is not None:
            after = self.run.features_asked()
            facts = {
                "speaker": job.speaker if job.mix is None else job.mix.what,
                "options": key.options,
                "output": self.results,
                "source": {"seconds": seconds, "sampling_rate": sr, "channels": len(channels)},
                "result": {
                    "seconds": made.shape[1] / rate,
                    "sampling_rate": rate,
                    "channels": len(made),
                },
                "timings": {
                    **clock.marks,
                    "total": clock.total,
                    "real_time_factor": clock.total / seconds,
                    "features_cached": after[0] - before[0],
                    "features_computed": after[1] - before[1],
                },
            }
            manifest = self.run.write(output, facts, _files_of(job))
        return Outcome(
            name,
            job.speaker,
            output,
            audio_seconds=seconds,
            wall_seconds=clock.total,
            source=path,
            manifest=manifest,
        )

    def _check(self, output: Path, sr: int, n_channels: int) -> None:
        """Find out before the work whether the result can be written."""
        check_channels(n_channels, self.results.channels)
        what = (output.suffix, sr, n_channels)
        if what not in self.checked:  # with ffmpeg it takes a moment
            self.results.check(output, self.converter.sampling_rate, sr, n_channels)
            self.checked.add(what)


class _Clock:
    """Seconds of the parts of a job."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.marks: dict[str, float] = {}

    def mark(self, part: str) -> None:
        now = time.perf_counter()
        self.marks[part], self._last = now - self._last, now

    @property
    def total(self) -> float:
        return time.perf_counter() - self._start


def _files_of(job: Job) -> dict[str, list[Path]]:
    """Files that are read for this job alone."""
    found = {"source": [job.source.path]}
    if job.curve_file is not None:
        found["curve"] = [job.curve_file]
    if job.mix is not None and Path(job.mix.what).is_file():
        found["mix"] = [Path(job.mix.what)]
    return found
