"""The front door: exit codes, one-line errors, honest answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from svc import __version__
from svc.cli.main import main

ROOT = Path(__file__).resolve().parents[1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "resample" in capsys.readouterr().out


def test_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2
    assert "trian" in capsys.readouterr().err


def test_unknown_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train-diff", "-c", "configs/diffusion.yaml", "--gpu"])
    assert caught.value.code == 2
    assert "--gpu" in capsys.readouterr().err


def test_a_missing_config_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "svc", "train", "-c", "none.json", "-m", "x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "none.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
