"""Jobs shared by processes: each is done once, those of a killed one, too, and nothing is left behind."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.conversion import Converter, InferOptions, convert_files
from svc.conversion.claims import Claim, Claims, claim_path
from svc.conversion.jobs import Job, Outcome, exit_code
from svc.conversion.names import Source
from svc.conversion.sharding import Member, SharedRun, plan_of
from svc.errors import ConfigError, OutputError

SR = 8000
Sine = Callable[..., np.ndarray]


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    monkeypatch.chdir(tmp_path)
    return [
        Job(Source(f"s{number}.wav", Path(f"s{number}.wav")), "alice", InferOptions(), Path(f"r/s{number}.flac"))
        for number in range(8)
    ]  # fmt: skip


def work(jobs: list[Job], member: Member, attempt: Any = None, **settings: Any) -> list[Outcome]:
    """Do a process' part; an attempt writes the name of who has done it."""

    def write(index: int, claim: Claim) -> Outcome:
        job = jobs[index]
        with job.output.open("a") as stream:  # done twice would be seen
            stream.write(f"{member.rank} ")
        time.sleep(0.01)
        return Outcome(job.source.name, job.speaker, job.output, audio_seconds=1.0)

    with SharedRun(Path("r"), member, plan_of(jobs), jobs, **settings) as share:
        return share.go_through(attempt or write)


def contents() -> list[str]:
    return [path.read_text() for path in sorted(Path("r").glob("s*"))]


def leftovers() -> list[str]:
    return [path.name for path in Path("r").iterdir() if path.name.startswith(".")]


def test_each_job_is_done_once_and_all_know(jobs: list[Job]) -> None:
    members = [Member("run", rank, 3) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(lambda member: work(jobs, member), members))
    assert told[0] == told[1] == told[2]
    assert [outcome.output for outcome in told[0]] == [job.output for job in jobs]
    done = [text.split() for text in contents()]
    assert all(len(who) == 1 for who in done)
    assert [outcome.worker.rpartition(":")[2] for outcome in told[0]] == [who[0] for who in done]
    assert {"0", "1", "2"} == {who[0] for who in done}
    assert leftovers() == []


def test_a_finished_run_begins_again_and_a_late_one_has_nothing_to_do(jobs: list[Job]) -> None:
    first, second = Member("run", 0, 2), Member("run", 1, 2)
    work(jobs, first)
    assert len(leftovers()) == 1  # the second one is still to come
    work(jobs, second)
    assert contents() == ["0 "] * 8
    assert leftovers() == []
    work(jobs, second)
    assert contents() == ["0 1 "] * 8
    work(jobs, second)  # it was there before: this is another run
    assert contents() == ["0 1 1 "] * 8
    work(jobs, Member("run", 0, 2))
    assert contents() == ["0 1 1 "] * 8
    assert leftovers() == []
    for _ in range(2):  # nobody knows how many there are going to be
        work(jobs, Member("other"))
        assert leftovers() == []
    assert contents() == ["0 1 1 None None "] * 8


def test_a_run_that_was_stopped_goes_on(jobs: list[Job]) -> None:
    tried: list[str] = []

    def some(index: int, claim: Claim) -> Outcome:
        job = jobs[index]
        tried.append(job.source.name)
        if len(tried) == 4:
            raise KeyboardInterrupt
        if len(tried) == 2:
            return Outcome(job.source.name, job.speaker, error="no")
        job.output.write_text("before ")
        return Outcome(job.source.name, job.speaker, job.output)

    member = Member("run", 0, 1)
    with pytest.raises(KeyboardInterrupt):
        work(jobs, member, some)
    assert tried == ["s0.wav", "s1.wav", "s2.wav", "s3.wav"]
    Path("r/s2.flac").unlink()
    outcomes = work(jobs, member)
    assert not any(outcome.error for outcome in outcomes)
    assert contents() == ["before ", *["0 "] * 7]
    assert leftovers() == []


def test_a_failure_is_not_tried_by_everybody(jobs: list[Job]) -> None:
    tried: list[int] = []

    def fail(index: int, claim: Claim) -> Outcome:
        tried.append(index)
        return Outcome(jobs[index].source.name, "alice", error="no audio")

    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(work, jobs, Member("run", rank, 2), fail) for rank in range(2)]
    assert sorted(tried) == list(range(8))
    assert exit_code(parts[0].result()) == exit_code(parts[1].result()) == 2


def test_the_same_name_for_other_work_is_an_error(jobs: list[Job]) -> None:
    with SharedRun(Path("r"), Member("run"), plan_of(jobs), jobs):
        with (
            pytest.raises(ConfigError, match='"run" is being worked on with other songs'),
            SharedRun(Path("r"), Member("run"), plan_of(jobs, "seed 2"), jobs),
        ):
            pass
        with SharedRun(Path("r"), Member("another"), plan_of(jobs, "seed 2"), jobs):
            pass
    assert plan_of(jobs) == plan_of(list(jobs)) != plan_of(jobs[1:])
    work(jobs[:4], Member("run"))  # nobody is there any more
    assert leftovers() == []


def test_a_job_that_another_run_has_is_waited_for(jobs: list[Job]) -> None:
    with Claims({"pid": 1}) as others:
        claim = others.take(claim_path(jobs[5].output))
        assert claim is not None
        threading.Timer(0.5, claim.release).start()
        began = time.monotonic()
        work(jobs, Member("run"))
        assert time.monotonic() - began > 0.4
    assert len(contents()) == 8
    assert leftovers() == []


def test_a_job_that_was_taken_over_is_not_told_twice(jobs: list[Job]) -> None:
    lost: list[int] = []

    def sleepy(index: int, claim: Claim) -> Outcome | None:
        if not lost:
            lost.append(index)
            return None
        return Outcome(jobs[index].source.name, "alice", jobs[index].output)

    outcomes = work(jobs, Member("run"), sleepy)
    assert len(outcomes) == 8
    assert leftovers() == []


def sleep_long(share: SharedRun) -> None:
    """Let a process look as if it had given no sign of life for long."""
    share._claims._stop.set()
    for path in [*Path("r").glob(".*.claim"), *share.folder.glob("worker-*")]:
        os.utime(path, (1, 1))


@pytest.mark.parametrize("ended", [True, False])
def test_who_has_slept_sings_nothing_again(
    jobs: list[Job], echo: Any, sine: Sine, caplog: pytest.LogCaptureFixture, ended: bool
) -> None:
    """The others have taken its song over, and have even ended the run."""
    for job in jobs:
        write_audio(job.source.path, sine(220, 0.1, SR), SR)
    plan, other = "p", Member("run", 1, 2)
    asleep: list[int] = []
    told: list[Outcome] = []

    def sing(window: np.ndarray, call: int) -> np.ndarray:
        if not asleep:
            asleep.append(call)
            sleep_long(share)
            if ended:
                with SharedRun(Path("r"), other, plan, jobs) as rest:
                    convert_files(Converter(echo()), jobs, share=rest)
            else:
                taker = stack.enter_context(Claims({"pid": 1}))
                (claim,) = Path("r").glob(".*.claim")
                taken = taker.take(claim)
                assert taken is not None
                threading.Timer(0.3, taken.release).start()
        return window

    with (
        ExitStack() as stack,
        SharedRun(Path("r"), Member("run", 0, 2), plan, jobs) as share,
    ):
        voice = echo(sing)
        outcomes = convert_files(Converter(voice), jobs, share=share, on_outcome=told.append)
    assert [outcome.output for outcome in outcomes] == [job.output for job in jobs]
    assert "another process has taken it over" in caplog.text
    assert len(told) == (0 if ended else 8)
    assert len(voice.windows) == (1 if ended else 9)
    assert ("ended the run without this process" in caplog.text) == ended
    assert len(contents_of_folder()) == 8
    if ended:
        assert leftovers() == []


def contents_of_folder() -> list[str]:
    return [path.name for path in Path("r").iterdir() if not path.name.startswith(".")]


def test_what_the_others_have_not_made_is_told(jobs: list[Job]) -> None:
    def sleepy(index: int, claim: Claim) -> Outcome | None:
        sleep_long(share)
        shutil.rmtree(share.folder)
        jobs[3].output.touch()
        return None

    jobs[4] = dataclasses.replace(jobs[4], rename=lambda options: "unknown")
    with SharedRun(Path("r"), Member("run", 0, 2), "p", jobs) as share:
        outcomes = share.go_through(sleepy)
    assert [number for number, outcome in enumerate(outcomes) if not outcome.error] == [3]
    assert "have ended without it" in outcomes[0].error
    assert "look into the folder" in outcomes[4].error
    assert leftovers() == []


def test_a_result_that_cannot_be_written_stops_no_other(
    jobs: list[Job], echo: Any, sine: Sine
) -> None:
    for job in jobs:
        write_audio(job.source.path, sine(220, 0.1, SR), SR)
    jobs[0].output.mkdir(parents=True)
    Path("r/sub").touch()
    jobs[5] = dataclasses.replace(jobs[5], output=Path("r/sub/s5.flac"))
    told: list[Outcome] = []
    with SharedRun(Path("r"), Member("a"), "p", jobs) as share:
        outcomes = convert_files(Converter(echo()), jobs, share=share, on_outcome=told.append)
    assert [number for number, outcome in enumerate(outcomes) if outcome.error] == [0, 5]
    assert exit_code(outcomes) == 1
    assert sorted(outcomes, key=repr) == sorted(told, key=repr)
    assert leftovers() == []


def test_a_full_disk_leaves_the_rest_to_others(
    jobs: list[Job], echo: Any, sine: Sine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("cannot write r/x: no space left")

    for job in jobs:
        write_audio(job.source.path, sine(220, 0.1, SR), SR)
    told: list[Outcome] = []
    monkeypatch.setattr(Claim, "publish", full)
    with SharedRun(Path("r"), Member("a", 0, 2), "p", jobs) as share:
        with pytest.raises(OutputError):
            convert_files(Converter(echo()), jobs, share=share, on_outcome=told.append)
        assert [path.name for path in share.folder.glob("job-*")] == []
    assert [outcome.error for outcome in told] == ["cannot write r/x: no space left"]
    assert leftovers() == []


# ---------------------------------------------------------------- processes

_WORKER = """
import sys, time, types
from pathlib import Path
import numpy as np
from svc.conversion import Converter, InferOptions, convert_files, plan_jobs
from svc.conversion.results import ResultOptions
from svc.conversion.sharding import Member, SharedRun

class Slow:
    hop_length, usual_seconds, batch_frames, sampling_rate = 512, 3.0, 0, 8000
    speakers, ranges, compat, where, device = {"alice": 0}, {}, False, "cpu", "cpu"
    f0_predictor = types.SimpleNamespace(name="never asked")
    def check_options(self, options, singers): pass
    def give_back(self): pass
    def render_many(self, windows, speaker, options):
        time.sleep(0.1)
        return [window.wav[: len(window.wav) // 512 * 512] for window in windows]

rank, out = int(sys.argv[1]), Path(sys.argv[2])
jobs, _ = plan_jobs(["in"], ["alice"], InferOptions(), f0_name="pm", suffix="wav", output_dir=out)
member = Member("run", rank, 3) if rank >= 0 else None
options = ResultOptions(channels="keep")
if member is None:
    convert_files(Converter(Slow()), jobs, results=options)
else:
    with SharedRun(out, member, "plan", jobs, stale_after=2.0) as share:
        done = []
        convert_files(Converter(Slow()), jobs, results=options, share=share, on_outcome=done.append)
        print(*[outcome.name for outcome in done])
"""


def test_the_songs_of_a_killed_process_are_sung_by_others(
    tmp_path: Path, sine: Sine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        seconds = 60.0 if number == 2 else 1.0  # the one who has s2 is killed
        tone = sine(200 + 20 * number, seconds, SR)
        tone[SR // 2 :: 2 * SR] = 0
        write_audio(f"in/s{number}.wav", np.stack((tone, 0.5 * tone)), SR)

    def start(rank: int, folder: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _WORKER, str(rank), folder]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    workers = [start(rank, "shared") for rank in range(3)]
    stage, killed = None, -1
    end = time.monotonic() + 60
    while stage is None and time.monotonic() < end:
        for path in Path("shared").glob(".s2*.claim"):
            told = json.loads(path.read_text())
            folder = path.with_name(f".svc-{told['token']}")
            if folder.is_dir():
                stage, killed = folder, told["rank"]
        time.sleep(0.01)
    assert stage is not None
    workers[killed].kill()
    alone = start(-1, "alone")
    assert stage.is_dir()  # half a song is in it
    done = []
    for rank, worker in enumerate(workers):
        text, _ = worker.communicate(timeout=60)
        assert worker.returncode == (-signal.SIGKILL if rank == killed else 0)
        done += text.split()
    # Who was killed could not tell any more; it may have done others before.
    assert len(done) == len(set(done))
    assert "s2.wav" in done
    assert not stage.exists()
    alone.communicate(timeout=60)
    results = sorted(path.name for path in Path("alone").iterdir())
    assert len(results) == 8
    assert sorted(path.name for path in Path("shared").iterdir()) == results
    for name in results:
        assert Path("shared", name).read_bytes() == Path("alone", name).read_bytes(), name
