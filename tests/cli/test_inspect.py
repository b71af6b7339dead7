"""`svc inspect` on files of every kind, several at once, for people and for scripts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.checkpoint import save_checkpoint
from svc.cli import inspect
from svc.cli.main import COMMANDS, main
from svc.config import find_template, load_config, save_config
from svc.synthesizer import Synthesizer


class Hostile:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, ("marker",)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the quick template's net."""
    folder = tmp_path_factory.mktemp("44k")
    config = load_config(find_template("template_quick.json"))
    state = Synthesizer.from_config(config).state_dict()
    save_checkpoint({"model": state, "iteration": 3, "learning_rate": 1e-4}, folder / "G_800.pth")
    save_config(config, folder / "config.json")
    return folder


@pytest.fixture
def unsafe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"w": torch.ones(1)}, "x": Hostile()}, tmp_path / "evil.pth")
    return tmp_path / "evil.pth"


def test_help_is_one_text() -> None:
    assert COMMANDS[inspect.NAME] == inspect.HELP


def rows(text: str) -> dict[str, str]:
    """The facts of one report by their names."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines()[1:]:
        name = line[:30].strip() or name
        found[name] = f"{found.get(name, '')} {line[30:]}".strip()
    return found


def test_a_voice(voice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(voice / "G_800.pth")]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{voice}/G_800.pth: voice of so-vits-svc 4.1 (generator, G)"
    facts = rows(out)
    assert facts["ssl_dim"] == "384"
    assert facts["safe"].startswith("yes: ")
    assert facts["flow_share_parameter"] == "yes"
    assert facts["upsample_kernel_sizes"] == "16, 16, 4, 4, 4"
    assert facts["fits the config"] == f"{voice}/config.json: yes"
    assert "whisper-ppg-tiny" in facts["fits"]
    assert len(facts["sha256"]) == 64
    assert max(map(len, out.splitlines()[1:])) <= 112


def test_another_config(voice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = str(find_template("template.json"))
    assert main(["inspect", str(voice / "G_800.pth"), "-c", other]) == 0
    fits = rows(capsys.readouterr().out)["fits the config"]
    assert fits.startswith(f"{other}: NO: trained with a speech encoder 384 wide such as")


def test_several_files_and_a_folder(
    voice: Path, unsafe: Path, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "song.wav", np.zeros(8000, np.float32), 16000)
    (tmp_path / "noise.bin").write_bytes(b"\0\1\2")
    files = [
        voice, golden / "golden_kmeans_50.pt", golden / "golden_feature_and_index.pkl",
        golden / "golden_enc_tiny_wavlm.pt", golden / "golden_enc_tiny_rmvpe.pt",
        tmp_path / "song.wav", tmp_path / "noise.bin", find_template("diffusion_template.yaml"),
    ]  # fmt: skip
    assert main(["inspect", *map(str, files)]) == 0
    reports = capsys.readouterr().out.split("\n\n")
    assert [report.splitlines()[0] for report in reports] == [
        f"{voice}: folder of a training run",
        f"{files[1]}: k-means centres of 1 voice",
        f"{files[2]}: retrieval index of so-vits-svc 4.1 (pickle of faiss indexes), 1 voice",
        f"{files[3]}: content encoder: WavLM",
        f"{files[4]}: pitch net: RMVPE",
        f"{files[5]}: recording (WAV (Microsoft))",
        f"{files[6]}: not a file svc knows",
        f"{files[7]}: config of a diffusion model (diffusion.yaml)",
    ]
    assert rows(reports[0])["newest_G"] == "G_800.pth"
    assert rows(reports[6])["first_bytes"] == "00 01 02  ..."
    assert main(["inspect", *map(str, files), str(unsafe)]) == 1


def test_an_unsafe_file(unsafe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(unsafe)]) == 1
    out, err = capsys.readouterr()
    name = rows(out)["safe"].removeprefix("NOT SAFE: loading this with an ordinary loader would ")
    assert name in ("call posix.mkdir", "call nt.mkdir")
    assert err == ""
    assert not Path("marker").exists()


def test_damaged_files(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.pt").touch()
    whole = (golden / "golden_kmeans_50.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[:-500])
    for name in ("empty.pt", "cut.pt"):
        assert main(["inspect", str(tmp_path / name)]) == 1
        out, err = capsys.readouterr()
        assert err == ""
        assert "copy or download it again" in rows(out)["DAMAGED"]


def test_objects_for_scripts(voice: Path, unsafe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["inspect", "--json", str(voice / "G_800.pth"), str(unsafe), str(voice)])
    assert code == 1
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["kind"], first["good"], first["safe"]) == ("voice", True, True)
    assert first["facts"]["ssl_dim"] == 384
    assert first["config"] == {"path": f"{voice}/config.json", "fits": True, "differences": []}
    assert first["bytes"] == (voice / "G_800.pth").stat().st_size
    assert (second["safe"], second["good"], len(second["refused_callables"])) == (False, False, 1)
    assert (third["kind"], third["facts"]["newest_G"]) == ("run", "G_800.pth")


def test_wrong_arguments(voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = str(tmp_path / "absent.pth")
    good = str(voice / "G_800.pth")
    assert main(["inspect", good, absent]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"svc: error: {absent} is not there; check the path\n")
    for config in (absent, good):
        assert main(["inspect", good, "-c", config]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("svc: error: ")
    with pytest.raises(SystemExit) as caught:
        main(["inspect"])
    assert caught.value.code == 2


def test_hash_on_demand(
    voice: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svc.inspection.inspector.HASHED", 10)
    for flags, there in (([], False), (["--hash"], True)):
        assert main(["inspect", str(voice / "config.json"), *flags]) == 0
        assert ("sha256" in rows(capsys.readouterr().out)) is there


def test_odd_names(voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ä b 声.json", "x\x1b[2J.json"):
        shutil.copy(voice / "config.json", tmp_path / name)
        assert main(["inspect", str(tmp_path / name)]) == 0
        first = capsys.readouterr().out.splitlines()[0]
        assert first.isprintable()
        assert first.endswith("config of a voice (config.json)")


def test_the_reader_may_go_away(voice: Path) -> None:
    command = f"{sys.executable} -m svc inspect {voice}/config.json {voice} | head -n 1"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.startswith(f"{voice}/config.json: config of a voice")
    assert done.stderr == ""
