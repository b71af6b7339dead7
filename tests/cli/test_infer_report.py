"""What is said of results: any name, and a stdout that takes no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from svc.cli.infer_report import InferReport
from svc.conversion.jobs import Outcome

ROOT = Path(__file__).resolve().parents[2]


def test_names_cannot_write_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\nb  \x1b[31m 歌\u3000.wav"
    outcomes = [
        Outcome(name, "eve\x07", Path(f"results/{name}.flac"), wall_seconds=1, audio_seconds=2),
        Outcome(name, "eve\x07", error=f"{name}: it is\nbroken"),
    ]
    report = InferReport()
    for outcome in outcomes:
        report.show(outcome)
    report.tell(f"{name}: -t 3")
    assert report.finish(outcomes) == 1
    out, err = capsys.readouterr()
    shown = "a\\nb  \\x1b[31m 歌\u3000.wav"
    assert f"{shown} -> results/{shown}.flac  (2.0 s of audio" in out
    assert f"{shown}: -t 3\n" in out
    assert f"svc: failed: {shown} for eve\\x07: it is broken\n" in err
    assert f"1 of 2 done, 1 failed: {shown}\n" in err
    assert not set("\x1b\x07") & set(out + err)
    assert err.count("\n") == 5  # a line of its own, and the table with the sum


_SHOW = """
import sys
from pathlib import Path
from svc.cli.infer_report import InferReport
from svc.conversion.jobs import Outcome

report = InferReport(as_json=sys.argv[1] == "json")
outcomes = [Outcome(name, "eve", Path(name)) for name in "abc"]
for outcome in outcomes:
    report.tell("a key")
    report.show(outcome)
print("sung", file=sys.stderr)
sys.exit(report.finish([*outcomes, Outcome("d", error="no")]))
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("full", [True, False])
def test_a_stdout_that_takes_no_more_stops_no_song(form: str, full: bool) -> None:
    if full:
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", _SHOW, form],
        stdout=target,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(target)
    assert done.returncode == 1  # that of the songs
    assert "sung\n" in done.stderr
    assert "3 of 4 done" in done.stderr
    assert done.stderr.count("cannot print any more (No space left on device)") == full
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
