"""Many files, many voices: every name times every speaker; a bad file does not stop the others."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from svc.atomic import make_folder, output_error
from svc.audio.io import read_audio, write_audio
from svc.audio.pitch import F0Track
from svc.conversion.converter import Converter
from svc.conversion.names import OUTPUT_DIR, RAW_DIR, Source, find_sources, result_name
from svc.conversion.options import InferOptions, with_transposition
from svc.conversion.speaker_mix import SpeakerMix
from svc.errors import ConfigError, OutputError, SvcError
from svc.progress import Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One file for one voice."""

    source: Source
    speaker: str
    options: InferOptions
    output: Path
    curve: F0Track | None = None  # sung instead of what the predictor hears
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
        output: the file written; None = failed.
        error: why it failed; "" = it did not.
        audio_seconds: length of the input.
        wall_seconds: time it took.
    """

    name: str
    speaker: str = ""
    output: Path | None = None
    error: str = ""
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0


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
            sources = find_sources(name, raw_dir)
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
                    # Case-insensitive file systems would let "A.wav" overwrite "a.wav".
                    if place.casefold() not in used:
                        break
                    copy += 1
                used.add(place.casefold())
                job = Job(source, speaker, chosen, output_dir / target)
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
        progress: called as ``(percent done, 100 * jobs, name)``.
        on_outcome: called after each job.
        on_key: called with a line about each transposition that was chosen, before it is sung.

    Returns:
        One outcome per job, in order.
    """
    report = progress or silent
    outcomes: list[Outcome] = []
    stop = ""
    for index, job in enumerate(jobs):
        name = job.source.name

        def share(
            done: int, total: int, what: str, first: int = 100 * index, name: str = name
        ) -> None:
            del what
            report(first + 100 * done // max(total, 1), 100 * len(jobs), name)

        if stop:
            outcome = Outcome(name, job.speaker, error=f"not tried: {stop}")
        else:
            try:
                outcome = _convert_file(converter, job, share, on_key)
            except OutputError as error:
                outcome = Outcome(name, job.speaker, error=str(error))
                stop = "the result before it could not be written"
            except SvcError as error:
                outcome = Outcome(name, job.speaker, error=str(error))
            except Exception as error:
                # A fault of ours: tell, keep the traceback, and save the rest of the batch.
                logger.error("%s: unexpected error", job.source.path, exc_info=True)
                text = f"unexpected {type(error).__name__}: {error} (please report it)"
                outcome = Outcome(name, job.speaker, error=text)
        share(1, 1, "")
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    return outcomes


def _convert_file(
    converter: Converter, job: Job, progress: Progress, on_key: Callable[[str], None] | None
) -> Outcome:
    start = time.perf_counter()
    wav, sr = read_audio(job.source.path)
    singer = job.speaker if job.mix is None else job.mix
    key = converter.fit_key(wav, sr, singer, job.options, f0=job.curve)
    if key.chosen and on_key is not None:
        on_key(f"{job.source.name} for {job.speaker}: {key.chosen}")
    if key.warning:
        logger.warning("%s: %s", job.source.name, key.warning)
    converted = converter.convert(wav, sr, singer, key.options, f0=job.curve, progress=progress)
    output = job.target(key.options)
    write_audio(output, converted, converter.sampling_rate)
    return Outcome(
        job.source.name,
        job.speaker,
        output,
        audio_seconds=wav.size / sr,
        wall_seconds=time.perf_counter() - start,
    )


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 = all done, 1 = some failed, 2 = nothing was done."""
    failed = sum(bool(outcome.error) for outcome in outcomes)
    if failed == 0 and outcomes:
        return 0
    return 1 if failed < len(outcomes) else 2
