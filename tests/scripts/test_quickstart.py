"""quickstart.sh and test.sh: errors, and the road they take with stand-ins for pip and svc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.demo.singer import DEMO_HIGH, DEMO_LOW, SAMPLING_RATE, sing_contour

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "scripts" / "quickstart.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")

PYTHON = """#!/bin/sh
case "$*" in
"-m pip --version") exit 0 ;;
"-m pip install"*) echo "pip $*" >>"$LOG" ;;
*) exec "{python}" "$@" ;;
esac
"""

# Checks the flags with the real parser, then does as if.
SVC = """#!{python}
import json, os, pathlib, sys
from svc.cli.main import build_parser
argv = sys.argv[1:]
args = build_parser(argv[0]).parse_args(argv)
with open(os.environ["LOG"], "a") as log:
    log.write("svc " + " ".join(argv) + chr(10))
if argv[0] == os.environ.get("FAIL"):
    sys.exit(int(os.environ["FAIL_STATUS"]))
if argv[0] == "demo":
    from svc.cli.main import main
    sys.exit(main([*argv, "--minutes", "0.1"]))
if argv[0] == "slice":
    (args.out_dir / "voice").mkdir(parents=True, exist_ok=True)
if argv[0] == "resample":
    import shutil
    skip = shutil.ignore_patterns("broken.wav")
    shutil.copytree(args.in_dir, args.out_dir2, ignore=skip, dirs_exist_ok=True)
if argv[0] == "train":
    run = pathlib.Path("logs", args.model)
    run.mkdir(parents=True)
    for step in (9, 10):
        (run / f"G_{{step}}.pth").touch()
if argv[0] == "compare":
    args.json.write_text(json.dumps({{"summary": "all is well"}}))
"""


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables under which the scripts install nothing and train nothing."""
    executable(tmp_path / "venv" / "bin" / "python", PYTHON)
    executable(tmp_path / "venv" / "bin" / "svc", SVC)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("QUICKSTART_", "FAIL"))},
        "SVC_VENV": str(tmp_path / "venv"),
        "QUICKSTART_DIR": str(tmp_path / "work"),
        "QUICKSTART_TRANSPOSE": "0",
        "LOG": str(tmp_path / "log"),
        "PYTHONPATH": str(ROOT),
    }


def run(
    *arguments: object, env: dict[str, str], cwd: Path, script: Path = QUICKSTART
) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(script), *map(str, arguments)]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=120)


def voice(folder: Path, name: str, f0: float, seconds: float = 1.0) -> None:
    """A recording of somebody singing one note."""
    contour = np.full(round(seconds * SAMPLING_RATE), f0)
    singer = DEMO_LOW if f0 < 200 else DEMO_HIGH
    wav = sing_contour(contour, voice=singer, rng=np.random.default_rng(0)).wav
    write_audio(folder / name, wav, SAMPLING_RATE)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["{tmp}/gone"], "gone"),
        (["{tmp}/file.txt"], "not a folder"),
        (["{tmp}/empty folder"], "holds no file"),
        (["{tmp}/voice", "{tmp}/no song.wav"], "no song.wav"),
        (["{tmp}/voice", "{tmp}/voice"], "not a file"),
        (["{tmp}/voice", "{tmp}/zero.wav"], "is empty"),
        (["a", "b", "c"], "too many"),
        (["--fast"], "--fast"),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_is_done(
    tmp_path, environment, arguments, word
):
    (tmp_path / "voice").mkdir()
    (tmp_path / "empty folder").mkdir()
    for name in ("file.txt", "voice/a.wav"):
        (tmp_path / name).write_text("x")
    (tmp_path / "zero.wav").touch()
    result = run(*(a.format(tmp=tmp_path) for a in arguments), env=environment, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert word in result.stderr
    assert not (tmp_path / "log").exists()
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("setting", ["QUICKSTART_STEPS=many", "QUICKSTART_MINUTES=-1"])
def test_wrong_settings_are_one_line(tmp_path, environment, setting):
    name, value = setting.split("=")
    result = run(env={**environment, name: value}, cwd=tmp_path)
    assert result.returncode == 2
    assert setting in result.stderr


def test_help_explains_every_setting(tmp_path, environment):
    result = run("--help", env=environment, cwd=tmp_path)
    assert result.returncode == 0
    used = set()
    for script in (QUICKSTART, ROOT / "scripts" / "venv.sh"):
        words = script.read_text().replace("{", " ").replace(":", " ").replace("}", " ").split()
        used |= {word.strip("$\"'=") for word in words if word.startswith("QUICKSTART_")}
    for name in {word.split("=")[0] for word in used}:
        assert name in result.stdout, name
    assert "set -euo" not in result.stdout


def test_without_arguments_the_demonstration_runs(tmp_path, environment):
    del environment["QUICKSTART_TRANSPOSE"]
    result = run(env={**environment, "QUICKSTART_STEPS": "10"}, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    log = Path(environment["LOG"]).read_text().splitlines()
    assert [line.split()[1] for line in log[1:]] == [
        "demo", "resample", "preprocess", "train", "infer", "compare",
    ]  # fmt: skip
    assert "-c " in log[0]
    assert log[0].endswith(f"-e {ROOT}")
    work = tmp_path / "work"
    assert "--max_steps 10" in log[4]
    assert "G_10.pth" in log[5]
    assert "-s demo_low -t -12" in log[5]
    assert "--source demo/dataset_raw/demo_high" in log[6]
    assert "--target dataset/44k/demo_low" in log[6]
    for line in log[1:]:
        assert f"$ {line}" in result.stdout
    assert str(work / "result.wav") in result.stdout
    assert result.stdout.splitlines()[-1] == "all is well"
    # Nothing is installed twice.
    shutil.rmtree(work / "logs")
    assert run(env=environment, cwd=tmp_path).returncode == 0
    assert (
        sum(line.startswith("pip") for line in Path(environment["LOG"]).read_text().split("\n"))
        == 1
    )


def test_own_recordings_and_song(tmp_path, environment):
    folder = tmp_path / "my voice 🎤"
    voice(folder, "short one.wav", 300.0)
    voice(folder, "long.flac", 300.0, seconds=16.0)
    (folder / "notes.txt").write_text("not a recording")
    (folder / "broken.wav").write_text("not a recording either")
    voice(tmp_path, "song.wav", 150.0)
    del environment["QUICKSTART_TRANSPOSE"]
    result = run("my voice 🎤", "song.wav", env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    work = tmp_path / "work"
    found = sorted(p.name for p in (work / "dataset_raw" / "my voice 🎤").iterdir())
    assert found == ["broken.wav", "short one.wav"]  # svc resample says what is wrong with it
    assert [p.name for p in (work / "long" / "my voice 🎤").iterdir()] == ["long.flac"]
    log = Path(environment["LOG"]).read_text().splitlines()
    assert [line.split()[1] for line in log[1:]] == [
        "slice", "resample", "preprocess", "train", "infer", "compare",
    ]  # fmt: skip
    assert f"-n {tmp_path}/song.wav -s my voice 🎤 -t 12" in log[5]
    assert "--source " not in log[6]


def test_sub_folders_are_voices_and_one_can_be_chosen(tmp_path, environment):
    for name, f0 in (("anna", 300.0), ("bert", 120.0)):
        voice(tmp_path / "voices" / name, "a.wav", f0)
    voice(tmp_path, "song.wav", 250.0)
    arguments = (tmp_path / "voices", tmp_path / "song.wav")
    wrong = {**environment, "QUICKSTART_SPEAKER": "carl"}
    result = run(*arguments, env=wrong, cwd=tmp_path)
    assert result.returncode == 2
    assert "anna, bert" in result.stderr
    chosen = {**environment, "QUICKSTART_SPEAKER": "bert", "QUICKSTART_TRANSPOSE": "-7"}
    result = run(*arguments, env=chosen, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "-s bert -t -7" in Path(environment["LOG"]).read_text()


def test_other_recordings_do_not_mix_with_earlier_ones(tmp_path, environment):
    folder = tmp_path / "voice"
    voice(folder, "a.wav", 300.0)
    voice(tmp_path, "song.wav", 250.0)
    assert run(folder, tmp_path / "song.wav", env=environment, cwd=tmp_path).returncode == 0
    work = tmp_path / "work"
    stale = work / "dataset" / "44k" / "voice" / "a.wav"
    assert stale.is_file()
    (folder / "a.wav").rename(folder / "b.wav")
    shutil.rmtree(work / "logs")
    assert run(folder, tmp_path / "song.wav", env=environment, cwd=tmp_path).returncode == 0
    assert [p.name for p in (work / "dataset_raw" / "voice").iterdir()] == ["b.wav"]
    assert not stale.exists()
    # The folder of one voice is not given to another.
    other = tmp_path / "elsewhere"
    voice(other, "a.wav", 300.0)
    result = run(other, tmp_path / "song.wav", env=environment, cwd=tmp_path)
    assert result.returncode == 2
    assert "QUICKSTART_DIR" in result.stderr


@pytest.mark.parametrize(
    ("command", "status", "expected", "word"),
    [
        ("resample", 1, 0, "left out"),
        ("resample", 2, 2, "svc resample failed"),
        ("train", 1, 2, "svc train failed"),
        ("train", 130, 2, "goes on where it was"),
        ("infer", 1, 2, "svc infer failed"),
    ],
)
def test_failures_stop_it_and_left_out_files_do_not(
    tmp_path, environment, command, status, expected, word
):
    voice(tmp_path / "voice", "a.wav", 300.0)
    voice(tmp_path, "song.wav", 250.0)
    failing = {**environment, "FAIL": command, "FAIL_STATUS": str(status)}
    result = run(tmp_path / "voice", tmp_path / "song.wav", env=failing, cwd=tmp_path)
    assert result.returncode == expected
    assert word in result.stdout + result.stderr
    assert ("Done in" in result.stdout) == (expected == 0)


def test_a_data_set_of_somebody_else_is_left_alone(tmp_path, environment):
    voice(tmp_path / "voice", "a.wav", 300.0)
    voice(tmp_path, "song.wav", 300.0)
    mine = tmp_path / "work" / "dataset_raw" / "me" / "precious.wav"
    mine.parent.mkdir(parents=True)
    mine.touch()
    result = run(tmp_path / "voice", tmp_path / "song.wav", env=environment, cwd=tmp_path)
    assert result.returncode == 2
    assert "did not make" in result.stderr
    assert mine.exists()


def test_a_folder_without_audio_is_named(tmp_path, environment):
    (tmp_path / "voice").mkdir()
    (tmp_path / "voice" / "readme.txt").write_text("x")
    voice(tmp_path, "song.wav", 300.0)
    result = run(tmp_path / "voice", tmp_path / "song.wav", env=environment, cwd=tmp_path)
    assert result.returncode == 2
    assert "holds no audio file" in result.stderr


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path, environment):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data").write_text("x")
    for script in (QUICKSTART, ROOT / "scripts" / "test.sh"):
        env = {**environment, "SVC_VENV": "precious"}  # relative to where the script is called
        result = run(env=env, cwd=tmp_path, script=script)
        assert result.returncode == 2
        assert "not a virtual environment" in result.stderr
    assert (tmp_path / "precious" / "data").read_text() == "x"


def test_a_python_too_old_is_refused(tmp_path, environment):
    old = tmp_path / "old"
    executable(old, "#!/bin/sh\nexit 1\n")
    env = {**environment, "SVC_VENV": str(tmp_path / "new"), "PYTHON": str(old)}
    result = run(env=env, cwd=tmp_path)
    assert result.returncode == 2
    assert "Python 3.10 or newer" in result.stderr
    assert not (tmp_path / "new").exists()


def test_test_script_passes_arguments_through(tmp_path, environment):
    result = run(
        "--install-only", env=environment, cwd=tmp_path, script=ROOT / "scripts" / "test.sh"
    )
    assert result.returncode == 0, result.stderr
    assert Path(environment["LOG"]).read_text().strip().endswith(f"-e {ROOT}[dev]")
    result = run("--version", env=environment, cwd=tmp_path, script=ROOT / "scripts" / "test.sh")
    assert result.returncode == 0
    assert "pytest" in result.stdout


def test_constraints_pin_every_dependency_for_every_python():
    import re

    names: dict[str, list[str]] = {}
    for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r'([\w.-]+)==[\w.]+(?:; python_version (<|>=) "3\.11")?', line)
        assert match, line
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        names.setdefault(name, []).append(match[2] or "")
    for name, markers in names.items():
        assert markers in ([""], ["<", ">="], ["<"]), (name, markers)
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def needed(lines: list[str]) -> Iterator[str]:
        for line in lines:
            own = re.match(r"svc\[([\w,]+)\]", line)
            if own:
                for extra in own[1].split(","):
                    yield from needed(extras[extra])
            else:
                yield re.match(r"[\w.-]+", line)[0]

    found = {*needed(project["dependencies"]), *needed(extras["dev"])}
    assert {"torch", "pytest", "onnxruntime"} <= found
    for name in found:
        assert re.sub(r"[-_.]+", "-", name).lower() in names, name
