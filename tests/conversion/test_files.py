from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.atomic import output_error
from svc.audio.io import audio_info, read_audio, write_audio
from svc.conversion import Converter, InferOptions, convert_files, plan_jobs
from svc.conversion.files import check_writable
from svc.conversion.jobs import Outcome, exit_code, spread
from svc.errors import ConfigError, OutputError

SR = 44100
OPTIONS = InferOptions()


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tone = (0.5 * np.sin(np.arange(SR // 4) * 0.03)).astype(np.float32)
    for name in ("a.wav", "b.wav", "c.wav"):
        write_audio(Path("raw") / name, tone, SR)
    return Path("raw")


def plan(names: list[str], speakers: list[str] | None = None, **settings: Any) -> Any:
    return plan_jobs(names, speakers or ["alice"], OPTIONS, f0_name="pm", **settings)


def test_every_name_meets_every_speaker(raw: Path) -> None:
    jobs, failures = plan(["a.wav", "b"], ["alice", "bob"], transposes=[2, -3])
    assert not failures
    assert [job.output.name for job in jobs] == [
        "a.wav_2key_alice_sovits_pm.flac",
        "a.wav_2key_bob_sovits_pm.flac",
        "b_-3key_alice_sovits_pm.flac",
        "b_-3key_bob_sovits_pm.flac",
    ]
    assert {job.output.parent for job in jobs} == {Path("results")}
    assert [job.options.transpose for job in jobs] == [2, 2, -3, -3]


def test_missing_transpositions_take_the_first_value() -> None:
    assert spread([5.0, 1.0], 4) == [5, 1, 5, 5]
    assert spread([], 2) == [0, 0]
    with pytest.raises(ConfigError, match="3 values for 2 names"):
        spread([1, 2, 3], 2)


def test_equal_names_from_different_folders_do_not_overwrite_each_other(raw: Path) -> None:
    write_audio("x/Song.wav", np.zeros(100, np.float32), SR)
    write_audio("y/song.wav", np.zeros(100, np.float32), SR)
    jobs, _ = plan(["x/Song.wav", "y/song.wav", "x"])
    names = [job.output.name.casefold() for job in jobs]
    assert len(set(names)) == 3
    assert names[1] == "song.wav(2)_0key_alice_sovits_pm.flac"


def test_names_without_a_file_are_told_and_the_rest_is_done(raw: Path) -> None:
    jobs, failures = plan(["a.wav", "nothing.wav", "b.wav"])
    assert [job.source.name for job in jobs] == ["a.wav", "b.wav"]
    assert [failure.name for failure in failures] == ["nothing.wav"]
    assert "nothing.wav" in failures[0].error


def test_output_is_for_one_result_only(raw: Path) -> None:
    jobs, _ = plan(["a.wav"], output=Path("here/mine.mp3"))
    assert jobs[0].output == Path("here/mine.mp3")
    for names, speakers in ((["a.wav", "b.wav"], ["alice"]), (["a.wav"], ["alice", "bob"])):
        with pytest.raises(ConfigError, match="--output names one file, but there are 2"):
            plan(names, speakers, output=Path("mine.wav"))
    with pytest.raises(ConfigError, match="the input itself"):
        plan(["a.wav"], output=Path("raw/../raw/a.wav"))


def test_one_bad_file_does_not_stop_the_others(raw: Path, echo: Any) -> None:
    (raw / "b.wav").write_bytes(b"RIFF this is no audio")
    (raw / "empty.wav").touch()
    jobs, _ = plan(["a.wav", "b.wav", "empty.wav", "c.wav"])
    told: list[Outcome] = []
    outcomes = convert_files(Converter(echo()), jobs, on_outcome=told.append)
    assert told == outcomes
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, True, False]
    assert "b.wav" in outcomes[1].error
    assert [outcome.output is not None for outcome in outcomes] == [True, False, False, True]
    for outcome in (outcomes[0], outcomes[3]):
        assert outcome.output is not None
        assert audio_info(outcome.output).n_samples == SR // 4
        assert outcome.audio_seconds == pytest.approx(0.25)
    assert exit_code(outcomes) == 1


def test_a_fault_of_ours_does_not_stop_the_others(
    raw: Path, echo: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_once(window: np.ndarray, call: int) -> np.ndarray:
        if call == 1:
            raise RuntimeError("shape mismatch")
        return window

    jobs, _ = plan(["a.wav", "b.wav"])
    outcomes = convert_files(Converter(echo(fail_once)), jobs)
    assert outcomes[0].error == "unexpected RuntimeError: shape mismatch (please report it)"
    assert not outcomes[1].error
    assert "Traceback" in caplog.text


def test_a_full_disk_ends_the_run_with_one_line(
    raw: Path, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    jobs, _ = plan(["a.wav", "b.wav"])
    voice = echo()
    monkeypatch.setattr("svc.atomic.os.replace", full)
    outcomes = convert_files(Converter(voice), jobs)
    assert "no space left" in outcomes[0].error
    assert "not tried" in outcomes[1].error
    assert len(voice.windows) == 1
    assert exit_code(outcomes) == 2
    assert not [path for path in Path("results").iterdir() if path.is_file()]


def test_a_folder_in_the_way_of_one_result_stops_no_other(raw: Path, echo: Any) -> None:
    jobs, _ = plan(["a.wav", "b.wav", "c.wav"])
    (jobs[0].output / "mine").mkdir(parents=True)
    (raw / "long.wav").write_bytes((raw / "a.wav").read_bytes())
    jobs.insert(1, replace(jobs[0], output=Path("results") / f"{'x' * 300}.flac"))
    jobs.insert(2, replace(jobs[0], output=Path("raw/a.wav/a.flac")))
    outcomes = convert_files(Converter(echo()), jobs)
    assert [bool(outcome.error) for outcome in outcomes] == [True, True, True, False, False]
    assert (
        outcomes[0].error == f"cannot write {jobs[0].output}: a folder of that name is in the way"
    )
    assert "too long" in outcomes[1].error
    assert exit_code(outcomes) == 1
    assert (jobs[0].output / "mine").is_dir()
    assert not list(Path("results").glob(".*"))


@pytest.mark.parametrize(
    ("number", "all_of_them"),
    [
        (errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EROFS, True), (errno.EISDIR, False),
        (errno.ENOTDIR, False), (errno.ENAMETOOLONG, False), (errno.EACCES, False),
    ],
)  # fmt: skip
def test_what_concerns_all_results(number: int, all_of_them: bool) -> None:
    def write() -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise output_error(Path("a"), error) from error

    with pytest.raises(OutputError) as caught:
        write()
    again = OutputError("the same, said in other words")
    again.__cause__ = caught.value
    assert caught.value.concerns_all == again.concerns_all == all_of_them
    assert OutputError("it needs 3 MB and the disk has 2").concerns_all


@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg", "mp3"])
def test_every_format_is_written(raw: Path, echo: Any, suffix: str) -> None:
    jobs, _ = plan(["a.wav"], suffix=suffix)
    (outcome,) = convert_files(Converter(echo()), jobs)
    assert outcome.output is not None
    wav, sr = read_audio(outcome.output)
    assert sr == SR
    assert abs(len(wav) - SR // 4) < 3000  # mp3 pads
    assert np.abs(wav).max() > 0.3


def test_progress_runs_to_the_end(raw: Path, echo: Any) -> None:
    seen: list[tuple[int, int, str]] = []
    jobs, _ = plan(["a.wav", "b.wav"])
    convert_files(
        Converter(echo()), jobs, progress=lambda done, total, what: seen.append((done, total, what))
    )
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert seen[-1] == (200, 200, "b.wav")


def test_a_folder_that_takes_no_files(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        check_writable(tmp_path / "file" / "results")
    with pytest.raises(OutputError):
        check_writable(tmp_path / "file")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="no permission"):
            check_writable(tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_a_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match="read-only"):
        check_writable(tmp_path)


@pytest.mark.parametrize(
    ("errors", "code"),
    [([], 2), ([""], 0), (["", ""], 0), (["", "x"], 1), (["x"], 2), (["x", "y"], 2)],
)
def test_exit_codes(errors: list[str], code: int) -> None:
    assert exit_code([Outcome("a", error=error) for error in errors]) == code
