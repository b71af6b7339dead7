"""Preprocessing and its speech encoder: which weights made the units, and several clips at a time; the
encoder is a stand-in unless a test says real.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from svc.config import load_config
from svc.dataset.configs import ConfigOptions
from svc.dataset.extraction import ExtractorOptions, extract_features
from svc.dataset.features import FeatureCache, FeaturePaths, FeatureSettings
from svc.dataset.fingerprint import file_hash
from svc.dataset.pool import Outcome
from svc.dataset.preprocess import PreprocessOptions, PreprocessReport, preprocess
from svc.errors import MissingFileError
from svc.pretrained import whisper_tiny_asset

Sine = Callable[..., np.ndarray]


def write(path: Path, wav: np.ndarray, sr: int = 44100, subtype: str = "PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, sr, subtype=subtype)
    return path


def make_dataset(sine: Sine, speakers: dict[str, int], root: str = "dataset/44k") -> None:
    for number, (speaker, count) in enumerate(speakers.items()):
        for index in range(count):
            tone = sine(150 + 60 * number + 5 * index, 0.5 + 0.01 * index)
            write(Path(root) / speaker / f"{index:02d}.wav", tone)


def options(**changes: Any) -> PreprocessOptions:
    configs = {
        key: changes.pop(key) for key in list(changes) if key in ConfigOptions.__dataclass_fields__
    }
    configs.setdefault("speech_encoder", "whisper-ppg-tiny")
    return PreprocessOptions(
        configs=ConfigOptions(**configs), **{"f0_predictor": "dio", "device": "cpu", **changes}
    )


def run(**changes: Any) -> PreprocessReport:
    return preprocess(options(**changes))


def test_an_own_encoder_file_is_noted_and_told_apart(place: Path, encoder: Any, sine: Sine) -> None:
    make_dataset(sine, {"a": 2})
    Path("w1.pt").write_bytes(b"1")
    Path("w2.pt").write_bytes(b"2")
    run(encoder_path="w1.pt")
    assert load_config("configs/config.json").model.encoder_path == "w1.pt"
    assert run(encoder_path="whisper-ppg-tiny=w1.pt").fresh == 2
    assert run(stage="features").fresh == 2  # the config says which
    assert not run(stage="features", encoder_path="w1.pt").notes
    report = run(stage="features", encoder_path="w2.pt")
    assert report.computed == 2
    assert "give it to  svc infer  too" in report.notes[0]
    assert run(encoder_path="w2.pt").fresh == 2
    Path("w2.pt").unlink()
    with pytest.raises(MissingFileError, match=r"w2\.pt.*--encoder_path"):
        run(stage="features")


def test_a_fusion_of_own_files(place: Path, encoder: Any, sine: Sine) -> None:
    make_dataset(sine, {"a": 2})
    fused = "whisper-ppg-tiny+dphubert"
    Path("folder").mkdir()
    Path("folder/model.safetensors").write_bytes(b"1")
    Path("d.pth").write_bytes(b"2")
    paths = "whisper-ppg-tiny=folder,dphubert=d.pth"
    run(speech_encoder=fused, encoder_path=paths)
    model = load_config("configs/config.json").model
    assert (model.speech_encoder, model.encoder_path, model.ssl_dim) == (fused, paths, 1152)
    assert run(stage="features", speech_encoder=None).fresh == 2
    Path("folder/config.json").write_text("{}")
    assert run(stage="features", speech_encoder=None).computed == 2
    Path("other.pth").write_bytes(b"3")
    report = run(stage="features", speech_encoder=None, encoder_path="dphubert=other.pth")
    assert report.computed == 2  # the other part's path still comes from the config
    with pytest.raises(MissingFileError, match="DPHuBERT"):
        run(speech_encoder=fused, encoder_path="whisper-ppg-tiny=folder")


def test_a_template_keeps_its_encoder_and_where_it_lies(place: Path, sine: Sine) -> None:
    make_dataset(sine, {"a": 2})
    Path("w.pt").touch()
    run(stage="config", encoder_path="w.pt", config_path=Path("mine/config.json"))
    for encoder, expected in ((None, "w.pt"), ("whisper-ppg-tiny", "w.pt"), ("vec256l9", None)):
        run(stage="config", template="mine/config.json", speech_encoder=encoder)
        assert load_config("configs/config.json").model.encoder_path == expected


def test_the_default_weights_are_told_apart_too(place: Path, encoder: Any, sine: Sine) -> None:
    """OpenAI's tiny.pt and the bundled tiny.en have one id and different weights."""
    make_dataset(sine, {"a": 2})
    run()
    meta = FeaturePaths.of(Path("dataset/44k/a/00.wav")).meta
    assert json.loads(meta.read_text())["units"]["encoder_file"] == file_hash(whisper_tiny_asset())
    assert run().fresh == 2
    Path("pretrain").mkdir()
    Path("pretrain/tiny.pt").write_bytes(b"another tiny")
    assert run().computed == 2
    Path("pretrain/tiny.pt").unlink()
    assert run(encoder_path=str(whisper_tiny_asset())).computed == 2
    assert run().fresh == 2


def test_features_of_the_first_release_stay_fresh(place: Path, encoder: Any, sine: Sine) -> None:
    make_dataset(sine, {"a": 2})
    run()
    for file in Path("dataset").rglob("*.meta.json"):
        meta = json.loads(file.read_text())
        meta["units"]["encoder_file"] = None
        file.write_text(json.dumps(meta))
    assert run().fresh == 2
    Path("own.pt").write_bytes(b"1")
    assert run(encoder_path="own.pt").computed == 2


def test_each_file_is_hashed_once_per_run(
    place: Path, encoder: Any, sine: Sine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def note(path: Path) -> str:
        hashed.append(path)
        return file_hash(path)

    monkeypatch.setattr("svc.dataset.fingerprint.file_hash", note)
    make_dataset(sine, {"a": 4})
    run(encoder_batch=2)
    assert hashed.count(whisper_tiny_asset()) == 1
    assert len(hashed) == 1 + 4


def test_another_precision_makes_other_units(place: Path, encoder: Any, sine: Sine) -> None:
    make_dataset(sine, {"a": 2})
    run()
    times = {path: path.stat().st_mtime_ns for path in Path("dataset").rglob("*.f0.npy")}
    assert run(encoder_precision="bf16").computed == 2
    assert run(encoder_precision="bf16").fresh == 2
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert run().computed == 2


# ------------------------------------------------------------------------------------ in batches


def units_of(speaker: str = "a") -> dict[str, torch.Tensor]:
    cache = FeatureCache.from_config(load_config("configs/config.json"))
    return {
        path.name: cache.load(path).units
        for path in sorted(Path("dataset/44k", speaker).glob("*.wav"))
        if FeaturePaths.of(path).units.is_file()
    }


def test_clips_are_encoded_together_and_each_gets_its_own_units(
    place: Path, encoder: Any, sine: Sine
) -> None:
    make_dataset(sine, {"a": 7})
    run()
    alone, told = units_of(), []
    assert (encoder.calls, encoder.batches) == (7, [])
    for path in Path("dataset").rglob("*.soft.pt"):
        path.unlink()
    report = preprocess(
        options(encoder_batch=3), lambda done, total, name: told.append((done, total))
    )
    assert report.computed == 7
    assert sorted(encoder.batches) == [3, 3]  # and one clip by itself
    assert encoder.calls == 8
    assert told == [(number, 7) for number in range(1, 8)]
    together = units_of()
    assert together.keys() == alone.keys()
    assert all(torch.equal(together[name], alone[name]) for name in alone)
    # Only what is stale goes into a batch.
    FeaturePaths.of(Path("dataset/44k/a/03.wav")).units.unlink()
    assert (run(encoder_batch=3).computed, encoder.calls) == (1, 9)
    assert run(encoder_batch=3, f0_predictor="pm").computed == 7
    assert (len(encoder.batches), encoder.calls) == (2, 9)


def test_a_bad_clip_harms_no_other_of_its_batch(
    place: Path, encoder: Any, sine: Sine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(sine, {"a": 6})
    run(stage="config")
    write(Path("dataset/44k/a/silent.wav"), np.zeros(44100, np.float32))
    write(Path("dataset/44k/a/short.wav"), sine(300, 0.1))
    Path("dataset/44k/a/text.wav").write_text("not audio")
    victim = round(16000 * soundfile.info("dataset/44k/a/02.wav").duration)
    real, real_batch = encoder.units, encoder.encode_batch

    def choosy(wav16k: torch.Tensor) -> torch.Tensor:
        if abs(len(wav16k) - victim) < 2:
            raise RuntimeError("out of luck")
        return real(wav16k)

    monkeypatch.setattr(encoder, "units", choosy)
    report = run(stage="features", encoder_batch=4)
    bad = {item.path.name: item.reason for item in report.left_out}
    assert bad.pop("02.wav") == "RuntimeError: out of luck"
    assert bad.keys() == {"silent.wav", "short.wav", "text.wav"}
    # A value that is not finite in one clip's units is that clip's trouble too.
    monkeypatch.setattr(encoder, "units", real)

    def poisoned(wavs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        units = real_batch(wavs)
        units[0] = torch.full_like(units[0], torch.nan)
        return units

    for path in Path("dataset").rglob("*.soft.pt"):
        path.unlink()
    monkeypatch.setattr(encoder, "encode_batch", poisoned)
    report = run(stage="features", encoder_batch=20)
    assert sum("not finite" in item.reason for item in report.left_out) == 1
    assert sum(units.isfinite().all() for units in units_of().values()) == len(units_of()) >= 5


def test_memory_that_is_too_small_for_a_batch(
    place: Path,
    encoder: Any,
    sine: Sine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_dataset(sine, {"a": 6})
    tried: list[int] = []

    def too_small(wavs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        tried.append(len(wavs))
        raise torch.OutOfMemoryError("no room\nfor 8 GiB")

    monkeypatch.setattr(encoder, "encode_batch", too_small)
    assert run(encoder_batch=2).computed == 6
    assert (tried, encoder.calls) == ([2], 6)  # tried once, said once
    (record,) = caplog.records
    assert "2 clips at a time failed (no room for 8 GiB); from here on" in record.getMessage()


class Deadly:
    """A stand-in for `Extractor` that dies at one clip."""

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache

    def __call__(self, wav_paths: Sequence[Path]) -> list[Outcome[Path, bool]]:
        for path in wav_paths:
            if path.name == "01.wav":
                os._exit(3)
            self.cache.save(
                path, units=torch.ones(384, 3), f0=torch.ones(2, 3), volume=torch.ones(3)
            )
        return [Outcome(path, True) for path in wav_paths]


def build_deadly(options: ExtractorOptions, jobs: int, number: int) -> Deadly:
    return Deadly(FeatureCache(options.settings))


def test_a_clip_that_kills_its_process_takes_no_other_with_it(
    place: Path, sine: Sine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(sine, {"a": 6})
    monkeypatch.setattr("svc.dataset.extraction.build_worker", build_deadly)
    settings = FeatureSettings("whisper-ppg-tiny", 44100, 512)
    told: list[int] = []
    report = extract_features(
        sorted(Path("dataset").rglob("*.wav")),
        ExtractorOptions(settings, device="cpu", encoder_batch=3),
        jobs=2,
        progress=lambda done, total, name: told.append(done),
    )
    assert report.computed == 5
    (lost,) = report.left_out
    assert lost.path.name == "01.wav"
    assert "died with exit code 3" in lost.reason
    assert told == list(range(1, 7))


def test_how_many_clips_go_together() -> None:
    settings = FeatureSettings("whisper-ppg-tiny", 44100, 512)
    cpu = ExtractorOptions(settings, device="cpu")
    assert cpu.group_size(100, 1) == 1
    own = ExtractorOptions(settings, device="cpu", encoder_batch=5)
    assert [own.group_size(count, 2) for count in (0, 1, 4, 10, 100)] == [1, 1, 2, 5, 5]


@pytest.mark.slow
def test_the_real_encoder_in_batches_gives_the_same(place: Path, sine: Sine) -> None:
    make_dataset(sine, {"a": 5})
    run()
    alone = units_of()
    for path in Path("dataset").rglob("*.soft.pt"):
        path.unlink()
    assert run(encoder_batch=4).computed == 5
    for name, units in units_of().items():
        torch.testing.assert_close(units, alone[name], atol=1e-4, rtol=1e-4)
