"""`svc preprocess` writes the pack; the encoder is a stand-in, the rest is real."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from svc.cli.main import main
from svc.config import load_config
from svc.dataset.configs import ConfigOptions
from svc.dataset.features import FeatureCache, FeaturePaths
from svc.dataset.pack import Pack
from svc.dataset.preprocess import PreprocessOptions, PreprocessReport, preprocess
from svc.dataset.store import open_store
from svc.errors import ConfigError, DatasetError, OutputError
from svc.training.checks import read_lists

PACK = Path("dataset/44k/features.pack")


@pytest.fixture
def data(place: Path, encoder: Any, sine: Callable[..., np.ndarray]) -> Path:
    """Three clips of a and two of b."""
    for number, name in enumerate(("a/0", "a/1", "a/2", "b/0", "b/1")):
        path = place / "dataset/44k" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sine(150 + 40 * number, 0.5 + 0.03 * number), 44100)
    return place


def run(**changes: Any) -> PreprocessReport:
    given = {"f0_predictor": "dio", "device": "cpu", **changes}
    return preprocess(
        PreprocessOptions(configs=ConfigOptions(speech_encoder="whisper-ppg-tiny"), **given)
    )


def test_it_is_the_last_stage(data: Path) -> None:
    told: list[tuple[int, int]] = []
    options = PreprocessOptions(
        configs=ConfigOptions(speech_encoder="whisper-ppg-tiny"), f0_predictor="dio", device="cpu"
    )
    report = preprocess(options, pack_progress=lambda done, total, _: told.append((done, total)))
    assert told == [(number, 5) for number in range(1, 6)]
    assert report.pack is not None
    assert (report.pack.path, report.pack.added, report.pack.written) == (PACK, 5, True)
    training, validation = read_lists(load_config("configs/config.json"))
    assert training.packed
    assert len(training.paths) + len(validation.paths) == len(Pack(PACK)) == 5
    again = run()
    assert again.pack is not None
    assert (again.computed, again.pack.kept, again.pack.written) == (0, 5, False)
    # Other features: the pack follows.
    changed = run(stage="features", f0_predictor="pm")
    assert changed.pack is not None
    assert (changed.computed, changed.pack.added, changed.pack.kept) == (5, 5, 0)
    assert read_lists(load_config("configs/config.json"))[0].packed
    assert run(stage="config").pack is None


def test_a_clip_without_features_is_not_in_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = FeatureCache.save

    def fail(self: FeatureCache, wav: Path, **parts: Any) -> None:
        if wav.stem == "2":
            raise DatasetError(f"{wav}: nothing came out")
        save(self, wav, **parts)

    monkeypatch.setattr(FeatureCache, "save", fail)
    report = run()
    assert [item.path.stem for item in report.left_out] == ["2"]
    assert len(Pack(PACK)) == 4


def test_left_out_on_request(data: Path) -> None:
    report = run(pack=False)
    assert report.pack is None
    assert report.notes == []
    assert not PACK.exists()
    run(stage="pack")
    (note,) = run(pack=False).notes
    assert "features.pack is as it was" in note
    with pytest.raises(ConfigError, match="--stage pack and --no_pack"):
        run(stage="pack", pack=False)


def test_alone_it_needs_neither_encoder_nor_predictor(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pack=False)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("an encoder was built")

    monkeypatch.setattr("svc.dataset.extraction.build_speech_encoder", never)
    monkeypatch.setattr("svc.dataset.extraction.build_f0_predictor", never)
    times = {path: path.stat().st_mtime_ns for path in data.rglob("*.*")}
    assert main(["preprocess", "--stage", "pack"]) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    clips = sorted(Path("dataset/44k").glob("*/*.wav"))
    store = open_store(FeatureCache.from_config(load_config("configs/config.json")).settings,
                       ("units", "f0", "volume"), clips)  # fmt: skip
    assert all(store.packed(clip) is not None for clip in clips)


def test_the_command_says_what_it_did(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["preprocess", "--speech_encoder", "whisper-ppg-tiny", "-d", "cpu"]
    arguments += ["--f0_predictor", "dio"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "pack: dataset/44k/features.pack: 5 clips, " in captured.out.replace("\\", "/")
    assert " MB; 5 added, 0 removed" in captured.out
    assert "pack: 5/5" in captured.err
    shutil.rmtree("dataset/44k/b")
    assert main(arguments) == 0
    assert "3 clips, 0 MB; 0 added, 2 removed" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "3 clips, 0 MB; up to date" in capsys.readouterr().out
    FeaturePaths.of(Path("dataset/44k/a/0.wav")).units.write_bytes(b"damaged")
    assert main(["preprocess", "--stage", "pack"]) == 1
    out = capsys.readouterr().out
    assert "left out: dataset/44k/a/0.wav: " in out
    assert "2 clips, 0 MB; 0 added, 1 removed" in out
    assert "1 clip left out" in out


def test_an_edited_pitch_asks_for_a_new_pack(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(pack=False)
    config, clip = load_config("configs/config.json"), "dataset/44k/a/0.wav"
    frames = soundfile.info(clip).frames // config.data.hop_length
    Path("curve.csv").write_text(
        "time_s,f0_hz\n" + "".join(f"{n * 512 / 44100},222\n" for n in range(frames))
    )
    arguments = ["f0", "apply", "curve.csv", clip, "-c", "configs/config.json"]
    assert main(arguments) == 0
    assert "older now" not in capsys.readouterr().out
    run(stage="pack")
    Path("curve.csv").write_text(Path("curve.csv").read_text().replace("222", "333"))
    assert main(arguments) == 0
    assert "features.pack is older now: run  svc preprocess --stage pack" in capsys.readouterr().out
    report = run(stage="pack").pack
    assert report is not None
    assert (report.added, report.kept) == (1, 4)
    assert read_lists(config)[0].packed


def test_a_disk_that_is_full(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    earlier = PACK.read_bytes()

    def full(path: Path, need: int) -> None:
        raise OutputError(f"cannot write {path}: no space left on the disk")

    monkeypatch.setattr("svc.dataset.pack_writer.check_space", full)
    run(stage="features")  # nothing is new: nothing is written
    clip = FeaturePaths.of(Path("dataset/44k/a/0.wav"))
    np.save(clip.f0, np.load(clip.f0) * 2)
    with pytest.raises(OutputError, match="no space left"):
        run(stage="pack")
    assert PACK.read_bytes() == earlier
    # As a stage of more it is not worth losing the rest; and what is stale does not stay.
    report = run(stage="features")
    assert report.fresh == 5
    assert report.pack is None
    (note,) = report.notes
    assert "no space left on the disk. Training reads the feature files instead" in note
    assert not PACK.exists()
    assert not read_lists(load_config("configs/config.json"))[0].packed
