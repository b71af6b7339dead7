"""What is to be done, and what became of it: every name times every speaker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from svc.audio.pitch import F0Track
from svc.conversion.names import OUTPUT_DIR, RAW_DIR, Source, find_sources, result_name
from svc.conversion.options import InferOptions, with_transposition
from svc.conversion.speaker_mix import SpeakerMix
from svc.errors import ConfigError, SvcError


@dataclass(frozen=True)
class Job:
    """One file for one voice."""

    source: Source
    speaker: str
    options: InferOptions
    output: Path
    curve: F0Track | None = None  # sung instead of what the predictor hears
    curve_file: Path | None = None  # where that comes from
    mix: SpeakerMix | None = None  # who sings instead of `speaker`
    # name of the output for a transposition that is chosen only when the song has been heard
    rename: Callable[[InferOptions], str] | None = None

    def target(self, options: InferOptions) -> Path:
        """Return the output for the options that are sung."""
        return self.output if self.rename is None else self.output.with_name(self.rename(options))


@dataclass(frozen=True)
class Outcome:
    """What became of one job, or of one name behind which there was no file.

    Attributes:
        name: the input, as it is shown to the user.
        speaker: the voice; "" when no job could be made.
        output: the file written, or the one that was there; None = failed.
        error: why it failed; "" = it did not.
        audio_seconds: length of the input.
        wall_seconds: time it took.
        source: the input's path; None = there is no such file.
        skipped: the result was there already.
        manifest: written beside the result.
        worker: which of the processes that share the work has done it; "" = nobody shares it.
    """

    name: str
    speaker: str = ""
    output: Path | None = None
    error: str = ""
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    source: Path | None = None
    skipped: bool = False
    manifest: Path | None = None
    worker: str = ""

    @property
    def real_time_factor(self) -> float | None:
        """Seconds it took per second of audio; None where nothing was sung."""
        return self.wall_seconds / self.audio_seconds if self.audio_seconds > 0 else None


def spread(transposes: Sequence[float | str], count: int) -> list[float | str]:
    """Give every name its transposition: missing ones take the first value, as in so-vits-svc 4.1
    (spec_core 8.7).

    Raises:
        ConfigError: more transpositions than names.
    """
    if len(transposes) > count:
        raise ConfigError(
            f"-t/--trans has {len(transposes)} values for {count} names of -n; give one per name, "
            "or one for all"
        )
    first = transposes[0] if transposes else 0.0
    return [*transposes, *[first] * (count - len(transposes))]


def plan_jobs(
    names: Sequence[str],
    speakers: Sequence[str],
    options: InferOptions,
    *,
    f0_name: str,
    transposes: Sequence[float | str] = (0.0,),
    suffix: str = "flac",
    raw_dir: Path = RAW_DIR,
    output_dir: Path = OUTPUT_DIR,
    output: Path | None = None,
    recursive: bool = False,
) -> tuple[list[Job], list[Outcome]]:
    """List what is to be done.

    Args:
        names: names under `raw_dir`, paths of files, or folders.
        speakers: names of voices.
        options: settings; the transposition is taken from `transposes`.
        f0_name: name of the F0 predictor, for the results' names.
        transposes: semitones, "auto" or "auto-octave" per name; missing ones take the first value.
        suffix: output format without a dot.
        raw_dir: where names are looked up first.
        output_dir: folder of the results.
        output: the result itself, with a suffix; only for one file and one voice.
        recursive: folders stand for the files in their sub-folders, too, which the results keep.

    Returns:
        ``(jobs, failures)``: jobs in the order of names and speakers, and the names that stand for
        no file.

    Raises:
        ConfigError: more transpositions than names; `output` with several jobs, or `output` is the
            input.
    """
    jobs: list[Job] = []
    failures: list[Outcome] = []
    used: set[str] = set()
    open_key = any(isinstance(value, str) for value in transposes)
    for name, value in zip(names, spread(transposes, len(names))):
        try:
            sources = find_sources(name, raw_dir, recursive=recursive, leave_out=output_dir)
        except SvcError as error:
            failures.append(Outcome(name, error=str(error)))
            continue
        chosen = with_transposition(options, value)
        for source in sources:
            for speaker in speakers:
                copy = 1
                while True:
                    target = result_name(source.name, speaker, chosen, f0_name, suffix, copy=copy)
                    # Two songs whose names differ in their keys alone may get the same key.
                    known = replace(chosen, transpose=0.0) if open_key else chosen
                    place = result_name(source.name, speaker, known, f0_name, suffix, copy=copy)
                    place = str(source.folder / place).casefold()
                    # Case-insensitive file systems would let "A.wav" overwrite "a.wav".
                    if place not in used:
                        break
                    copy += 1
                used.add(place)
                job = Job(source, speaker, chosen, output_dir / source.folder / target)
                if chosen.fit_to_voice != "no":
                    job = replace(
                        job,
                        rename=partial(
                            _name, source.name, speaker, f0_name=f0_name, suffix=suffix, copy=copy
                        ),
                    )
                jobs.append(job)
    if output is not None and jobs:
        if len(jobs) + len(failures) > 1:
            raise ConfigError(
                f"--output names one file, but there are {len(jobs) + len(failures)} results to "
                "write; use --output_dir FOLDER"
            )
        if output.resolve() == jobs[0].source.path.resolve():
            raise ConfigError(f"--output {output} is the input itself; choose another name")
        jobs = [replace(jobs[0], output=output, rename=None)]
    return jobs, failures


def _name(
    source: str, speaker: str, options: InferOptions, *, f0_name: str, suffix: str, copy: int
) -> str:
    return result_name(source, speaker, options, f0_name, suffix, copy=copy)


def with_mix(jobs: Sequence[Job], mix: SpeakerMix) -> list[Job]:
    """Let a mix of speakers sing the jobs."""
    return [replace(job, mix=mix) for job in jobs]


def split_existing(jobs: Sequence[Job]) -> tuple[list[Job], list[Outcome]]:
    """Take out what has been done before.

    Results are written whole or not at all, so one that is there is complete. Those whose name depends
    on the song (``-t auto``) are looked for later, by `convert_files`.

    Returns:
        ``(jobs, outcomes)``: what is left to do, and the outcomes of the others.
    """
    left, done = [], []
    for job in jobs:
        if job.rename is None and job.output.is_file():
            done.append(skipped(job, job.output))
        else:
            left.append(job)
    return left, done


def skipped(job: Job, output: Path) -> Outcome:
    """Return the outcome of a job whose result is there."""
    name, path = job.source.shown, job.source.path
    return Outcome(name, job.speaker, output, source=path, skipped=True)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 = all done, 1 = some failed, 2 = nothing was done."""
    failed = sum(bool(outcome.error) for outcome in outcomes)
    if failed == 0 and outcomes:
        return 0
    return 1 if failed < len(outcomes) else 2
