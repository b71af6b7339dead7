"""Doing the jobs: songs in files become results in files; a bad file does not stop the others."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from svc.atomic import make_folder, output_error
from svc.conversion.channels import check_channels
from svc.conversion.chunks import FloatArray
from svc.conversion.claims import Claim
from svc.conversion.converter import Converter
from svc.conversion.file_source import FileSource, SongFacts
from svc.conversion.jobs import Job, Outcome, skipped
from svc.conversion.key import KeyFit, Melody
from svc.conversion.manifest import RunFacts
from svc.conversion.options import InferOptions
from svc.conversion.placing import place, put, stage_beside
from svc.conversion.result_stream import Written, write_result
from svc.conversion.results import ResultOptions
from svc.conversion.sharding import SharedRun
from svc.errors import AudioError, OutputError, SvcError
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
    share: SharedRun | None = None,
) -> list[Outcome]:
    """Convert and write every job; what is wrong with one file is recorded and the next one is
    taken.

    A disk that is full ends the run, for it is as full for the next one; a folder in the way of one
    result does not.

    Args:
        converter: the models, loaded once.
        jobs: what to do.
        results: what the results are written as; None = the defaults.
        run: facts for the manifests beside the results; None = write none.
        skip_existing: leave results alone that are there.
        progress: called as ``(percent done, 100 * jobs, name)``.
        on_outcome: called after each job.
        on_key: called with a line about each transposition that was chosen, before it is sung.
        share: the same jobs are done by other processes, too; None = by this one alone.
            `on_outcome` is called for those that are done here.

    Returns:
        One outcome per job, in order, whoever has done it.

    Raises:
        OutputError: the disk takes nothing more, and others go on with the jobs.
    """
    report = progress or silent
    work = _Work(converter, results or ResultOptions(), run, skip_existing, on_key)
    outcomes: list[Outcome] = []
    stop = ""

    def share_of(first: int, name: str) -> Progress:
        def tell(done: int, total: int, what: str) -> None:
            text = f"{name} {what}" if what else name
            report(first + 100 * done // max(total, 1), 100 * len(jobs), text)

        return tell

    def settle(outcome: Outcome) -> Outcome:
        if on_outcome is not None:
            on_outcome(outcome)
        return outcome

    if share is not None:
        n_done = 0

        def count(settled: int) -> None:
            nonlocal n_done
            n_done = settled
            report(100 * settled, 100 * len(jobs), "")

        def attempt(index: int, claim: Claim) -> Outcome | None:
            job = jobs[index]
            try:
                outcome = work.attempt(job, share_of(100 * n_done, job.source.shown), claim)
            except OutputError as error:
                outcome = _failed(job, str(error))
                if error.concerns_all:  # others may have room; they try it, too
                    settle(outcome)
                    raise
            return None if outcome is None else settle(replace(outcome, worker=share.member.name))

        def refused(outcome: Outcome) -> None:
            settle(replace(outcome, worker=share.member.name))

        return share.go_through(attempt, count, refused)
    for index, job in enumerate(jobs):
        tell = share_of(100 * index, job.source.shown)
        if stop:
            outcome: Outcome | None = _failed(job, f"not tried: {stop}")
        else:
            try:
                outcome = work.attempt(job, tell)
            except OutputError as error:
                outcome = _failed(job, str(error))
                if error.concerns_all:
                    stop = "the result before it could not be written"
        tell(1, 1, "")
        if outcome is not None:
            outcomes.append(settle(outcome))
    return outcomes


def _failed(job: Job, why: str) -> Outcome:
    return Outcome(job.source.shown, job.speaker, error=why, source=job.source.path)


@dataclass(frozen=True)
class _Work:
    """Takes one job from file to file; see `convert_files`."""

    converter: Converter
    results: ResultOptions
    run: RunFacts | None
    skip_existing: bool
    on_key: Callable[[str], None] | None
    checked: set[tuple[str, int, int]] = field(default_factory=set)

    def attempt(self, job: Job, progress: Progress, claim: Claim | None = None) -> Outcome | None:
        """Do a job; what is wrong with it is a part of the outcome.

        Returns:
            What became of it; None = the claim has gone to somebody else meanwhile.

        Raises:
            OutputError: its result cannot be written; see `OutputError.concerns_all`.
        """
        try:
            return self.convert(job, progress, claim)
        except OutputError:
            raise
        except SvcError as error:
            return _failed(job, str(error))
        except Exception as error:
            # A fault of ours: tell, keep the traceback, and save the rest of the batch.
            logger.error("%s: unexpected error", job.source.path, exc_info=True)
            text = f"unexpected {type(error).__name__}: {error} (please report it)"
            return _failed(job, text)

    def convert(self, job: Job, progress: Progress, claim: Claim | None = None) -> Outcome | None:
        """Take a job from file to file; see `attempt`."""
        clock = _Clock()
        before = (0, 0) if self.run is None else self.run.features_asked()
        name, path = job.source.shown, job.source.path
        source = FileSource.of(path, tags=self.results.tags)
        self._check(job.output, source.sr, source.n_channels)
        song = SongFacts.of(source, job.options.slice_db, self.results.channels)
        if song.lost_in_mono is not None:
            logger.warning(
                "%s: its channels cancel each other, the voice hears %.0f dB",
                name,
                song.lost_in_mono,
            )
        clock.mark("read")
        # Nothing of the song is sung before all of its pitch is found: only where that is asked for.
        asked = job.options.fit_to_voice != "no" or job.curve is not None
        key = self._fit_key(job, song) if asked else KeyFit(job.options)
        if key.chosen and self.on_key is not None:
            self.on_key(f"{name} for {job.speaker}: {key.chosen}")
        output = job.target(key.options)
        if self.skip_existing and output.is_file():
            return skipped(job, output)
        clock.mark("choose_key")
        unknown = not self.converter.voice.ranges  # nothing to compare with
        melody = None if asked or unknown or job.options.auto_f0 else Melody()
        made = self._put(
            name,
            output,
            claim,
            lambda staged: self._sing(job, song, key.options, staged, clock, progress, melody),
        )
        if made is None:
            return None
        if melody is not None:
            self._fit_key(job, song, melody)
            clock.mark("choose_key")
        seconds = song.seconds
        manifest = None
        if self.run is not None:
            after = self.run.features_asked()
            facts = {
                "speaker": job.speaker if job.mix is None else job.mix.what,
                "options": key.options,
                "output": self.results,
                "source": {
                    "seconds": seconds,
                    "sampling_rate": source.sr,
                    "channels": source.n_channels,
                },
                "result": {
                    "seconds": made.n_samples / made.sr,
                    "sampling_rate": made.sr,
                    "channels": made.n_channels,
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

    def _fit_key(self, job: Job, song: SongFacts, melody: Melody | None = None) -> KeyFit:
        """Choose the key of a song or look at the given one, and warn where it is out of reach.

        Args:
            job: what is sung.
            song: its source.
            melody: what was heard of it; None = it is listened to, where it has no curve.
        """
        key = self.converter.fit_key(
            song.source,
            job.speaker if job.mix is None else job.mix,
            job.options,
            f0=job.curve,
            survey=song.survey,
            heard=None if melody is None else melody.tracks(),
        )
        if key.warning:
            logger.warning("%s: %s", job.source.shown, key.warning)
        return key

    def _put(
        self, name: str, output: Path, claim: Claim | None, sing: Callable[[Path], Written]
    ) -> Written | None:
        """Make a result beside its place, and put it there when it is whole.

        Returns:
            What it has become; None = the claim has gone to somebody else meanwhile, who also removes
            what was made so far.
        """
        made: Written | None = None
        with stage_beside(output.parent) as stage:
            staged = stage / output.name if claim is None else claim.stage(output)
            try:
                made = sing(staged)
            except (AudioError, OutputError) as error:
                if claim is None or claim.is_mine():
                    text = str(error).replace(str(staged), str(output))
                    raise type(error)(text) from error
            if claim is None:
                place(staged, output)
            elif made is None or not claim.publish(staged, output, put):
                logger.warning("%s: another process has taken it over", name)
                return None
        return made

    def _sing(
        self,
        job: Job,
        song: SongFacts,
        options: InferOptions,
        output: Path,
        clock: _Clock,
        progress: Progress,
        melody: Melody | None,
    ) -> Written:
        """Sing a song into its file, which is there whole or not at all; a `melody` is filled."""
        converter = self.converter
        singer = job.speaker if job.mix is None else job.mix
        voice_sr = converter.sampling_rate
        n_converted = converter.output_length(song.survey.n_samples, song.source.sr)
        with contextlib.closing(
            converter.stream(
                song.source,
                singer,
                options,
                f0=job.curve,
                survey=song.survey,
                on_melody=None if melody is None else melody.add,
            )
        ) as stream:
            parts: Iterable[FloatArray] = stream
            if converter.voice.compat:  # its length is the original's
                parts = list(stream)
                n_converted = sum(part.size for part in parts)
            rate = self.results.rate_of(output, voice_sr, song.source.sr)

            def sung() -> Iterator[FloatArray]:
                done = 0
                clock.mark("write")
                for part in parts:
                    clock.mark("convert")
                    yield part
                    done += part.size
                    at, end = done // voice_sr, n_converted // voice_sr
                    progress(done, n_converted, f"{at} of {end} s")
                    clock.mark("write")
                song.source.check_unchanged()
                clock.mark("convert")

            made = write_result(
                output, sung(), voice_sr, rate, song, self.results, n_converted=n_converted
            )
        clock.mark("write")
        return made

    def _check(self, output: Path, sr: int, n_channels: int) -> None:
        """Find out before the work whether the result can be written."""
        check_channels(n_channels, self.results.channels)
        what = (output.suffix, sr, n_channels)
        if what not in self.checked:  # with ffmpeg it takes a moment
            self.results.check(output, self.converter.sampling_rate, sr, n_channels)
            self.checked.add(what)


class _Clock:
    """Seconds of the parts of a job, each of which may come several times."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.marks: dict[str, float] = {}

    def mark(self, part: str) -> None:
        """Add the time since the last mark to a part."""
        now = time.perf_counter()
        self.marks[part] = self.marks.get(part, 0.0) + now - self._last
        self._last = now

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
