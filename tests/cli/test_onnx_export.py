from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from svc.cli.main import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SMALL = Path(__file__).resolve().parents[1] / "export" / "moevs_models.py"


def _models() -> Any:
    spec = importlib.util.spec_from_file_location("svc_tests_moevs_models", SMALL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


M = _models()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a voice where the original's command wants it."""
    monkeypatch.chdir(tmp_path)
    M.save_voice(Path("checkpoints/crs"))
    return tmp_path


def test_the_command_of_the_original(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["onnx-export", "-n", "crs"]) == 0
    out, err = capsys.readouterr()
    first, second, last = out.splitlines()
    assert first.startswith("checkpoints/crs/crs_SoVits.onnx  ")
    assert " MB, differs by " in first
    assert second == "checkpoints/crs.json"
    assert last == "each graph was compared with its net on two lengths"
    assert "crs_SoVits.onnx" in err
    described = json.loads(Path("checkpoints/crs.json").read_text(encoding="ascii"))
    assert list(described) == [
        "Folder", "Name", "Type", "Rate", "Hop", "Hubert", "SoVits4", "SoVits3", "CharaMix",
        "Volume", "HiddenSize", "Characters", "Cluster",
    ]  # fmt: skip
    assert described["Characters"] == ["alice"]
    ports = M.ports(Path("checkpoints/crs/crs_SoVits.onnx"))
    assert list(ports) == ["c", "f0", "mel2ph", "uv", "noise", "sid", "audio"]

    assert main(["onnx-export", "-n", "crs"]) == 2
    assert "crs_SoVits.onnx is there already; --force replaces it" in capsys.readouterr().err
    graph = Path("checkpoints/crs/crs_SoVits.onnx")
    before = graph.read_bytes()
    graph.write_bytes(b"old")
    assert main(["onnx-export", "-n", "crs/", "--force"]) == 0
    assert graph.read_bytes() == before


def test_files_by_name(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voice = Path("checkpoints/crs/model.pth").rename("G_7.pth")
    config = Path("checkpoints/crs/config.json").rename("my.json")
    refiner = M.save_diffusion(Path("logs/diffusion"))
    settings = refiner.with_name("config.yaml").rename("my.yaml")
    vocoder = M.save_vocoder(Path("pretrain/nsf_hifigan"))
    words = ["-m", voice, "-c", config, "-dm", refiner, "-dc", settings, "--vocoder", vocoder]
    words += ["-o", "out/my voice", "--tolerance", "2e-5"]
    assert main(["onnx-export", "--profile", "moevs", *map(str, words)]) == 0
    assert "(limit 2e-05)" in capsys.readouterr().out
    assert sorted(path.name for path in Path("out").rglob("*") if path.is_file()) == [
        "my voice.json",
        "my voice_SoVits.onnx",
        "my voice_diffusion.json",
        *(f"my voice_diffusion_{part}.onnx" for part in ("after", "denoise", "encoder", "pred")),
        "nsf_hifigan.onnx",
    ]


def test_a_graph_that_differs_ends_with_3(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["onnx-export", "-n", "crs", "--tolerance", "1e-12"]) == 3
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("svc: error: ")]
    assert "crs_SoVits.onnx differs from the net by" in line
    assert "tolerance of 1e-12" in line
    assert out == ""
    found = sorted(path.name for path in Path("checkpoints").rglob("*"))
    assert found == ["config.json", "crs", "model.pth"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "-o FOLDER is missing"),
        (["-o", "out"], "say which voice to export with -m FILE"),
        (["-o", "out", "--profile", "moevs"], "say what to export"),
        (["-n", "crs", "-m", "x.pth"], "-n and -m both name a voice"),
        (["-n", "../crs"], "the name of a folder in checkpoints/ is wanted, not a path"),
        (["-n", ".."], "not a path"),
        (["-n", "a\\b"], "not a path"),
        (["-n", ""], "not a path"),
        (["-n", "nobody"], "checkpoints/nobody/config.json is not there"),
        (["-n", "crs", "--profile", "full"], "-o FOLDER is missing"),
        (["-n", "crs", "--f0", "rmvpe"], "--f0 is a flag of --profile full, this is moevs"),
        (["-n", "crs", "--encoder_path", "x"], "--encoder_path is a flag of --profile full"),
        (["-m", "x.pth", "-o", "out", "--index", "y"], "--index is a flag of --profile moevs"),
        (["-n", "crs", "--tolerance", "0"], "--tolerance must be above 0"),
        (["-n", "crs", "--index", "no.pkl"], "no.pkl is not there"),
        (["-n", "crs", "-dm", "no.pt"], "no.pt"),
        (["-n", "crs", "--vocoder", "no/model"], "no/model"),
    ],
)
def test_mistakes_answer_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["onnx-export", *words]) == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("svc: error: ")]
    assert message in line
    assert "Traceback" not in err
    assert out == ""
    assert sorted(path.name for path in place.rglob("*")) == [
        "checkpoints",
        "config.json",
        "crs",
        "model.pth",
    ]


def test_the_full_profile_gets_its_flags(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = pytest.importorskip("svc.export.full")
    seen: dict[str, Any] = {}

    def export_full(*paths: Path, **options: Any) -> Any:
        seen.update(options, paths=paths)
        graph = SimpleNamespace(
            name="encoder.onnx", bytes=2_000_000, max_abs_error=3e-7, tolerance=1e-4, seconds=5.0
        )
        return SimpleNamespace(folder=Path("out"), graphs=(graph,))

    monkeypatch.setattr(full, "export_full", export_full)
    words = [
        "-m",
        "G.pth",
        "-o",
        "out",
        "-dm",
        "d.pt",
        "-dc",
        "d.yaml",
        "--vocoder",
        "v",
        "--force",
    ]
    words += ["--f0", "rmvpe", "fcpe", "--encoder_path", "e"]
    assert main(["onnx-export", *words]) == 0
    assert callable(seen.pop("progress"))
    assert seen == {
        "paths": (Path("G.pth"), None),
        "output": Path("out"),
        "encoder_path": "e",
        "f0": ["rmvpe", "fcpe"],
        "diffusion": Path("d.pt"),
        "diffusion_config": Path("d.yaml"),
        "vocoder": Path("v"),
        "tolerance": 1e-4,
        "force": True,
    }
    assert capsys.readouterr().out.splitlines() == [
        "out/encoder.onnx  2.0 MB, differs by 3.0e-07 at most (limit 0.0001), 5 s",
        "each graph was compared with its net on two lengths",
    ]
