"""The whole road on real files with the real command line: recordings -> clips -> features -> training -> a song."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svc.checkpoint import load_checkpoint
from svc.cli.main import main
from svc.config import find_template

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small voice has been trained for four steps by the commands a user types."""
    folder = tmp_path_factory.mktemp("voice 声 |'")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["demo", ".", "--minutes", "0.4"]) == 0
        assert main(["resample"]) == 0
        template = json.loads(find_template("template_quick.json").read_text())
        template["model"].update(
            hidden_channels=32,
            filter_channels=64,
            inter_channels=32,
            gin_channels=16,
            n_layers=1,
            upsample_initial_channel=32,
            discriminator_width=0.0625,
        )
        template["train"].update(
            batch_size=2, gan_start_step=2, segment_size=4096, eval_interval=2, log_interval=1
        )
        Path("small.json").write_text(json.dumps(template))
        assert (
            main(
                [
                    "preprocess",
                    "--template",
                    "small.json",
                    "--speech_encoder",
                    "whisper-ppg-tiny",
                    "--f0_predictor",
                    "dio",
                    "-d",
                    "cpu",
                ]
            )
            == 0
        )
        assert main(["train", "-m", "44k", "--max_steps", "4", "-d", "cpu"]) == 0
    return folder


@pytest.fixture
def at_home(voice: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(voice)
    return voice


def song_of(folder: Path) -> Path:
    return next(
        path
        for path in sorted(folder.glob("*.wav")) + sorted(folder.glob("*/*.wav"))
        if "song" in path.name
    )


@pytest.mark.slow
def test_training_left_what_the_original_leaves(at_home: Path) -> None:
    run = at_home / "logs" / "44k"
    pairs = {"G_2.pth", "D_2.pth", "G_4.pth", "D_4.pth"}
    assert {path.name for path in run.glob("*.pth")} == {*pairs, "G_best.pth"}
    assert json.loads((run / "config.json").read_text())["spk"].keys() == {"demo_high", "demo_low"}
    assert list(run.glob("events.out.tfevents*"))
    assert list((run / "eval").glob("events.out.tfevents*"))
    saved = load_checkpoint(run / "G_4.pth")
    assert {"model", "iteration", "optimizer", "learning_rate"} <= set(saved)


@pytest.mark.slow
def test_training_goes_on_where_it_stopped(at_home: Path) -> None:
    assert main(["train", "-m", "44k", "--max_steps", "5", "-d", "cpu"]) == 0
    assert (at_home / "logs/44k/G_5.pth").is_file()


@pytest.mark.slow
def test_a_song_comes_out_as_long_as_it_went_in(at_home: Path) -> None:
    song = song_of(at_home)
    shutil.rmtree("results", ignore_errors=True)
    command = [
        "infer",
        "-n",
        str(song),
        "-s",
        "demo_low",
        "demo_high",
        "-t",
        "-12",
        "-wf",
        "wav",
        "-d",
        "cpu",
    ]
    assert main(command) == 0
    results = sorted(Path("results").glob("*.wav"))
    assert [path.name for path in results] == [
        f"{song.name}_-12key_demo_{side}_sovits_pm.wav" for side in ("high", "low")
    ]
    source, _ = soundfile.read(song)
    for path in results:
        wav, sr = soundfile.read(path)
        assert sr == 44100
        assert len(wav) == len(source)
        assert np.isfinite(wav).all()
        assert np.abs(wav).max() > 1e-3
    first = results[0].read_bytes()
    assert main(command) == 0
    assert results[0].read_bytes() == first, "the same command gives the same file"


@pytest.mark.slow
def test_the_result_is_measured_and_drawn(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    song = song_of(at_home)
    assert main(["infer", "-n", str(song), "-s", "demo_low", "-t", "-12", "-d", "cpu"]) == 0
    result = next(Path("results").glob("*demo_low*.flac"))
    capsys.readouterr()
    assert (
        main(
            [
                "compare",
                str(song),
                str(result),
                "--target",
                "dataset/44k/demo_low",
                "--source",
                "dataset/44k/demo_high",
                "--transpose",
                "-12",
                "--png",
                "figure.png",
                "--json",
                "figures.json",
            ]
        )
        == 0
    )
    assert "cents" in capsys.readouterr().out
    assert Path("figure.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(Path("figures.json").read_text())


@pytest.mark.slow
def test_a_mismatch_of_config_and_checkpoint_is_explained(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads(Path("logs/44k/config.json").read_text())
    config["model"]["ssl_dim"] = 768
    config["model"]["speech_encoder"] = "vec768l12"
    Path("wrong.json").write_text(json.dumps(config))
    code = main(
        [
            "infer",
            "-m",
            "logs/44k/G_4.pth",
            "-c",
            "wrong.json",
            "-n",
            str(song_of(at_home)),
            "-s",
            "demo_low",
        ]
    )
    err = capsys.readouterr().err
    assert code == 2
    assert "pre.weight" in err
    assert "384" in err
    assert "768" in err
    assert err.count("\n") == 1
