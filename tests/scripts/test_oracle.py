"""oracle.sh and what it runs, without the other projects: errors, and our side of the comparison on a small net. Where
their environment is at hand, Whisper's real weights against openai-whisper.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
ORACLE = Path(os.environ.get("SVC_ORACLE_VENV", ROOT / ".oracle-venv")) / "bin" / "python"


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Import a script as it is imported when run: by its bare name, beside its folder's others."""
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "oracle")]
    yield importlib.import_module
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


# ------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["hubert-bass"], 'no net "hubert-bass"'),
        (["hubert-base", "--out", "x.md"], "give no NET"),
        (["--fast"], "--fast"),
    ],
)
def test_wrong_arguments_are_named(load, capsys, arguments, word):
    with pytest.raises(SystemExit) as stopped:
        load("run").main(arguments)
    assert stopped.value.code == 2
    assert word in capsys.readouterr().err


def test_it_does_not_start_without_recordings_or_environment(load, tmp_path, monkeypatch, capsys):
    run = load("run")
    monkeypatch.setenv("SVC_SHARED", str(tmp_path))
    assert run.main(["--oracle", sys.executable]) == 2
    assert "set SVC_SHARED" in capsys.readouterr().err
    (tmp_path / "audio").mkdir()
    assert run.main(["--oracle", str(tmp_path / "python")]) == 2
    assert "start this with bash scripts/oracle.sh" in capsys.readouterr().err
    assert run.main(["--oracle", sys.executable]) == 2
    assert "p226_023.flac" in capsys.readouterr().err


@pytest.fixture
def recordings(load, tmp_path, monkeypatch) -> Path:
    """A shared folder whose recordings are short noise."""
    for table in (load("cases").CLIPS, load("cases").REAL_CLIPS):
        for file, _ in table.values():
            path = tmp_path / "shared" / "audio" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, np.random.default_rng(0).normal(0, 0.1, 4000), 22050)
    monkeypatch.setenv("SVC_SHARED", str(tmp_path / "shared"))
    return tmp_path / "shared"


def test_results_are_kept_and_a_failing_net_leaves_the_document(
    load, tmp_path, recordings, monkeypatch, capsys
):
    run, names = load("run"), list(load("cases").CASES)
    asked: list[str] = []

    def measure(name: str, *_: Any) -> dict[str, Any]:
        asked.append(name)
        if name == names[3] and asked.count(name) == 1:
            raise subprocess.CalledProcessError(1, ["python", "build.py"], stderr="no such class")
        return FIGURES

    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(run, "free_gigabytes", lambda: 8.0)
    monkeypatch.setattr(
        run, "_versions", lambda _: dict.fromkeys(("machine", "ours", "theirs"), "x")
    )
    results, out = tmp_path / "results.json", tmp_path / "doc.md"
    arguments = ["--oracle", sys.executable, "--results", str(results), "--out", str(out)]
    assert run.main(arguments) == 1
    said = capsys.readouterr()
    assert f"{names[3]}: build.py failed\nno such class" in said.err
    assert "whisper-large-v2: not run: needs 10 GB of free memory" in said.err
    assert not out.exists()

    asked[:] = [names[3]]
    assert run.main(arguments) == 0
    assert asked == [names[3]] * 2  # the others were kept
    text = out.read_text()
    assert text.startswith("<!-- content encoders: begin -->")
    assert text.count("\n| `") == len(names) + len(names) - 2  # both tables, without those not run


FAKE = """#!/bin/sh
echo "$0 $*" >>"$LOG"
case "$*" in
"-m pip"*) exit 0 ;;
*run.py*) exec "{python}" "$@" ;;
*) cat >/dev/null; echo installed ;;
esac
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables under which oracle.sh finds two environments whose pip does nothing."""
    for name in ("venv", "oracle"):
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(FAKE.format(python=sys.executable))
        python.chmod(0o755)
        (tmp_path / name / "pyvenv.cfg").touch()
    return {
        **os.environ,
        "SVC_VENV": str(tmp_path / "venv"),
        "SVC_ORACLE_VENV": str(tmp_path / "oracle"),
        "SVC_SHARED": str(tmp_path),
        "LOG": str(tmp_path / "log"),
    }


def shell(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPTS / "oracle.sh"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@needs_bash
def test_the_list_needs_no_other_project(load, tmp_path, environment):
    result = shell("--list", env=environment)
    assert result.returncode == 0, result.stderr
    listed = [line.split()[0] for line in result.stdout.splitlines()]
    assert listed == list(load("cases").CASES)
    assert f"{tmp_path}/oracle/bin/python" not in (tmp_path / "log").read_text()


@needs_bash
def test_wrong_arguments_are_found_before_anything_is_installed(tmp_path, environment):
    result = shell("hubert-bass", env=environment)
    assert result.returncode == 2
    assert 'no net "hubert-bass"' in result.stderr
    assert f"{tmp_path}/oracle/bin/python" not in (tmp_path / "log").read_text()


@needs_bash
def test_an_environment_with_the_versions_is_used_as_it_is(tmp_path, environment):
    result = shell("--install-only", env=environment)
    assert result.returncode == 0, result.stderr
    asked = [line for line in (tmp_path / "log").read_text().splitlines() if "/oracle/" in line]
    assert asked
    assert not any("pip install" in line for line in asked)


@needs_bash
def test_a_folder_that_is_something_else_is_left_alone(tmp_path, environment):
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").touch()
    result = shell("--install-only", env={**environment, "SVC_ORACLE_VENV": str(other)})
    assert result.returncode == 2
    assert "SVC_ORACLE_VENV" in result.stderr
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


# ---------------------------------------------------------------------------------------------- our side, compared


def tensors(seed: int, *, dim: int = 64, layers: int = 3) -> dict[str, torch.Tensor]:
    """A narrow HuBERT under fairseq's names."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        shapes[f"feature_extractor.conv_layers.{i}.0.weight"] = (16, 16 if i else 1, kernel)
    norm("feature_extractor.conv_layers.0.2", 16)
    norm("layer_norm", 16)
    linear("post_extract_proj", dim, 16)
    shapes["encoder.pos_conv.0.weight_g"] = (1, 1, 128)
    shapes["encoder.pos_conv.0.weight_v"] = (dim, dim // 16, 128)
    shapes["encoder.pos_conv.0.bias"] = (dim,)
    norm("encoder.layer_norm", dim)
    for i in range(layers):
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            linear(f"encoder.layers.{i}.self_attn.{part}", dim, dim)
        linear(f"encoder.layers.{i}.fc1", 96, dim)
        linear(f"encoder.layers.{i}.fc2", dim, 96)
        norm(f"encoder.layers.{i}.self_attn_layer_norm", dim)
        norm(f"encoder.layers.{i}.final_layer_norm", dim)
    linear("final_proj", 24, dim)
    return {
        name: torch.randn(shape, generator=generator)
        * (1.5 / max(1, torch.Size(shape[1:]).numel()) ** 0.5)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def small(load, tmp_path_factory) -> dict[str, Any]:
    """A narrow net in a file, its case, a clip, and arrays as build.py stores them, made with svc."""
    from svc.speech.wave_files import load_wave_net

    folder = tmp_path_factory.mktemp("small")
    paths = []
    for name, seed in (("one.pt", 0), ("same.pt", 0), ("other.pt", 1)):
        torch.save({"model": tensors(seed)}, folder / name)
        paths.append(str(folder / name))
    cases = load("cases")
    case = cases.Case(
        "small", "fairseq", "svc", ("one", "same"), taps=((2, False), (2, True), cases.END)
    )
    clips = {"clip": np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)}
    net = load_wave_net(Path(paths[0]))
    arrays: dict[str, Any] = {"files": np.array(paths[:2]), "clip/seconds": np.array(1.0)}
    for bits in (32, 64):
        wave = torch.from_numpy(clips["clip"])[None]
        with load("nets").exact(), torch.no_grad():
            if bits == 64:
                net, wave = net.double(), wave.double()
            for layer, project in case.taps:
                hidden = net(wave, layer)
                out = net.final_projection(hidden) if project else hidden
                arrays[f"clip/{cases.label((layer, project))}/{bits}"] = out[0].numpy()
    arrays["position"] = net.position.weight.numpy()
    return {"case": case, "clips": clips, "arrays": arrays, "other": paths[2]}


def test_a_net_compared_with_itself_differs_by_rounding_only(load, small):
    figures = load("compare").compare(small["case"], small["clips"], small["arrays"])
    assert set(figures["taps"]) == {"2", "2 projected", "end"}
    assert max(figures["taps"].values()) == figures["rms"] == 0
    assert figures["float64"] == 0
    assert 0 < figures["rounding"]["ours"] < 1e-5
    assert figures["rounding"]["ours"] == figures["rounding"]["theirs"]
    assert figures["scale"] > 1
    assert load("table").is_good(figures)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_difference_in_one_value_is_seen(load, small, bits):
    arrays = {key: np.array(value) for key, value in small["arrays"].items()}
    arrays[f"clip/2/{bits}"][3, 5] += 1e-3
    figures = load("compare").compare(small["case"], small["clips"], arrays)
    found = figures["taps"]["2"] if bits == 32 else figures["float64"]
    assert found == pytest.approx(1e-3, rel=1e-2)
    assert figures["taps"]["end"] == 0
    # An error of theirs in float32 counts as their rounding, a multiple of which is allowed.
    assert load("table").is_good(figures) is (bits == 32)


def test_nan_is_never_good(load, small):
    arrays = {key: np.array(value) for key, value in small["arrays"].items()}
    arrays["clip/end/64"][0, 0] = np.nan
    figures = load("compare").compare(small["case"], small["clips"], arrays)
    assert not load("table").is_good(figures)


def test_a_second_file_with_another_net_is_an_error(load, small):
    arrays = {**small["arrays"], "files": np.array([small["arrays"]["files"][0], small["other"]])}
    with pytest.raises(ValueError, match="different ones"):
        load("compare").compare(small["case"], small["clips"], arrays)


def test_outputs_of_another_shape_are_an_error(load, small):
    arrays = {**small["arrays"], "clip/end/32": small["arrays"]["clip/end/32"][1:]}
    with pytest.raises(ValueError, match="the expected one"):
        load("compare").compare(small["case"], small["clips"], arrays)


def test_a_wave_normalised_by_mistake_is_an_error(load, small):
    import dataclasses

    case = dataclasses.replace(small["case"], normalize=True)
    with pytest.raises(ValueError, match="normalize_wave"):
        load("compare").compare(case, small["clips"], small["arrays"])


FIGURES: dict[str, Any] = {
    "taps": {"9": 2e-6, "12": 3e-6, "end": 3e-6, "9 projected": 1e-6},
    "ids": {"vec768l12": 3e-6},
    "rounding": {"ours": 2e-6, "theirs": 2e-6},
    "rms": 3e-7,
    "scale": 8.0,
    "float64": 1e-14,
    "seconds": {"ours": 1.0, "theirs": 2.0},
    "net_mb": 360.0,
    "reading_mb": 5.0,
    "fold": 1e-9,
}


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"taps": {"12": 1.1e-5}}, False),
        ({"taps": {"12": 1.1e-5}, "rounding": {"ours": 4e-6, "theirs": 4e-6}}, True),
        ({"taps": {"12": 1.3e-5}, "rounding": {"ours": 4e-6, "theirs": 4e-6}}, False),
        ({"ids": {"vec768l12": 2e-5}}, False),
        ({"float64": 1e-9}, False),
        ({"float64": float("inf")}, False),
        ({"mel": 1e-3}, False),
        ({"fold": 1e-5}, False),
    ],
)
def test_every_figure_has_a_limit(load, change, good):
    assert load("table").is_good({**FIGURES, **change}) is good


def test_the_table_shows_every_net_and_marks_the_bad_ones(load):
    results = {
        "hubert-base": FIGURES,
        "wavlm-base": {**FIGURES, "float64": 1e-3},
        "whisper-large-v2": "not run: needs 10 GB of free memory",
    }
    versions = {"machine": "a machine", "ours": "torch 9", "theirs": "torch 8"}
    text = load("table").section(results, versions)
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert "vec768l12 3.0e-06" in text
    assert "**above the limit**" in text
    assert "not run: needs 10 GB" in text
    assert "a machine" in text
    assert set(rows) == set(results)
    widths = {
        line.count("|") for line in text.splitlines() if line.startswith("| `") and "e-" in line
    }
    assert widths == {16}


# ------------------------------------------------------------------------------------------- the real thing, Whisper


@pytest.mark.skipif(
    not ORACLE.exists(),
    reason="no environment with openai-whisper: bash scripts/oracle.sh --install-only",
)
def test_whisper_with_its_real_weights_is_that_of_openai(load, shared, tmp_path):
    run, cases = load("run"), load("cases")
    clips = tmp_path / "clips.npz"
    run.write_clips(shared, cases.REAL_CLIPS, clips)
    figures = run.measure("whisper-real", ORACLE, tmp_path, clips, shared)
    assert max(*figures["taps"].values(), *figures["ids"].values()) <= 1e-5
    assert load("table").is_good(figures)
