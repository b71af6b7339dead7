from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from svc.checkpoint import save_safetensors
from svc.cli import encoders
from svc.cli.main import COMMANDS, main
from svc.config import SPEECH_ENCODER_DIMS
from svc.pretrained import PRETRAINED, WHISPER_TINY_ASSET, file_of, whisper_tiny_asset
from svc.speech.whisper import Whisper, WhisperConfig


@pytest.fixture
def pretrain(tmp_path: Path) -> Path:
    folder = tmp_path / "pretrain"
    folder.mkdir()
    return folder


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_help_is_one_text() -> None:
    assert COMMANDS[encoders.NAME] == encoders.HELP


def test_the_table(pretrain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pretrain / "medium.pt").write_bytes(bytes(2_000_000))
    (pretrain / "large-v2.pt").mkdir()  # no file
    assert main(["encoders", "--pretrain-dir", str(pretrain)]) == 0
    out = lines(capsys)
    rows = {line.split()[0]: line for line in out[1 : 1 + len(SPEECH_ENCODER_DIMS)]}
    assert list(rows) == list(SPEECH_ENCODER_DIMS)
    for name, row in rows.items():
        file = file_of(name)
        for word in (str(SPEECH_ENCODER_DIMS[name]), file.name, file.size_text, file.licence):
            assert word in row.split("  ") or f" {word}" in row
    assert rows["whisper-ppg"].split()[3:5] == ["2", "MB"]
    assert rows["whisper-ppg-large"].split()[3] == "-"
    assert "16 MB, bundled" in rows["whisper-ppg-tiny"]
    text = "\n".join(out)
    assert all(PRETRAINED[file_of(name).name].source in text for name in rows)
    assert str(pretrain) in text
    assert "--speech_encoder vec768l12+whisper-ppg-tiny (1152 wide)" in text
    assert max(len(line) for line in out[: len(rows) + 1]) <= 100


def test_a_file_of_ones_own_comes_before_the_bundled_one(
    pretrain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pretrain / "tiny.pt").write_bytes(bytes(3_000_000))
    assert main(["encoders", "--pretrain_dir", str(pretrain)]) == 0
    (row,) = [line for line in lines(capsys) if line.startswith("whisper-ppg-tiny")]
    assert "bundled" not in row
    assert "3 MB" in row


def test_the_table_for_scripts(pretrain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pretrain / "WavLM-Base+.pt").write_bytes(b"123")
    assert main(["encoders", "--json", "--pretrain_dir", str(pretrain)]) == 0
    rows = {row["id"]: row for row in map(json.loads, lines(capsys))}
    assert set(rows) == set(SPEECH_ENCODER_DIMS)
    wavlm = rows["wavlmbase+"]
    assert (wavlm["found"], wavlm["bytes"], wavlm["width"]) == (True, 3, 768)
    assert wavlm["published_bytes"] == PRETRAINED["WavLM-Base+.pt"].published[0].size
    assert (rows["dphubert"]["found"], rows["dphubert"]["path"]) == (False, None)
    assert rows["whisper-ppg-tiny"]["bundled"]
    assert len(rows["vec256l9"]["sha256"]) == 2


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; from svc.cli.main import main\n"
        "assert main(['encoders']) == 0\n"
        "assert not {'torch', 'numpy', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_check_all_that_are_found(pretrain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here, the bundled one."""
    assert main(["encoders", "--check", "--pretrain_dir", str(pretrain), "-d", "cpu"]) == 0
    (line,) = lines(capsys)
    for words in ("whisper-ppg-tiny: ok: 384 wide", "50 frames of one second", "on cpu (fp32)"):
        assert words in line
    assert f"{WHISPER_TINY_ASSET.name} as published" in line


def test_check_for_scripts(pretrain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy under a path of one's own is recognised; bf16 is used."""
    own = pretrain / WHISPER_TINY_ASSET.name
    shutil.copy(whisper_tiny_asset(), own)
    arguments = ["--check", "whisper-ppg-tiny", "--encoder-path", str(own), "-d", "cpu", "--json"]
    assert main(["encoders", *arguments, "--precision", "bf16"]) == 0
    (report,) = map(json.loads, lines(capsys))
    assert (report["ok"], report["width"], report["frames"]) == (True, 384, 50)
    assert report["paths"] == {"whisper-ppg-tiny": str(own)}
    assert report["checksum"] == {"whisper-ppg-tiny": "as published"}
    assert report["precision"] == "bf16"
    assert 0 < report["seconds"] < 60
    assert 0 < report["load_seconds"] < 60


def test_a_file_that_is_not_as_published_fails(
    pretrain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the others are checked all the same."""
    (pretrain / "WavLM-Base+.pt").write_bytes(b"half a download")
    assert main(["encoders", "--check", "--pretrain_dir", str(pretrain), "-d", "cpu"]) == 1
    good, bad = lines(capsys)
    assert good.startswith("whisper-ppg-tiny: ok")
    assert bad.startswith("wavlmbase+: FAILED: ")
    for words in (
        "WavLM-Base+.pt is not as published",
        "15 bytes",
        "377,604,817",
        "--encoder_path",
    ):
        assert words in bad


def test_own_weights_have_no_published_checksum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fusion of the bundled encoder and an untrained net."""
    net = Whisper(WhisperConfig(n_mels=80, n_positions=1500, dim=512, n_heads=8, n_layers=1))
    path = tmp_path / "own.safetensors"
    save_safetensors({f"encoder.{name}": t for name, t in net.state_dict().items()}, path)
    name = "whisper-ppg-base+whisper-ppg-tiny"
    arguments = ["--check", name, "--encoder_path", f"whisper-ppg-base={path}", "-d", "cpu"]
    assert main(["encoders", *arguments, "--pretrain_dir", str(tmp_path)]) == 0
    (line,) = lines(capsys)
    assert line.startswith(f"{name}: ok: 896 wide, 50 frames")
    assert "own.safetensors no published checksum" in line
    assert f"{WHISPER_TINY_ASSET.name} as published" in line


def test_damaged_weights_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.pt"
    torch.save({"model": {"a": torch.ones(3)}}, path)
    arguments = ["--check", "vec768l12", "--encoder_path", str(path), "-d", "cpu"]
    assert main(["encoders", *arguments]) == 1
    assert "vec768l12: FAILED: " in lines(capsys)[0]
    assert main(["encoders", *arguments, "--json"]) == 1
    (report,) = map(json.loads, lines(capsys))
    assert not report["ok"]
    assert str(path) in report["error"]
    assert "width" not in report


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--check", "vec768l13"], "vec768l12"),
        (["--check", "whisper-ppg-tiny", "whisper-ppg-base"], "base.pt is missing"),
        (["--check", "whisper-ppg-tiny+vec768l12"], "checkpoint_best_legacy_500.pt is missing"),
        (["--check", "--encoder_path", "x.pt"], "--check ID"),
        (["--encoder_path", "x.pt"], "--check ID"),
        (["--check", "vec768l12", "--encoder_path", "{tmp}/gone.pt"], "gone.pt is not there"),
        (["--check", "whisper-ppg-tiny", "-d", "cuda:77"], "cuda:77"),
        (["--pretrain_dir", "{tmp}/nowhere"], "--pretrain_dir"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    folder = [] if "--pretrain_dir" in arguments else ["--pretrain_dir", str(tmp_path)]
    given = [item.format(tmp=tmp_path) for item in arguments]
    assert main(["encoders", *given, *folder]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("svc: error: ")
    assert word in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
