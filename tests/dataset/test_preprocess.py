"""Lists, configs and features of a data set; the encoder is a stand-in, the rest is real."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from svc.config import load_config, load_diffusion_config
from svc.dataset.configs import ConfigOptions
from svc.dataset.features import FeatureCache, FeaturePaths
from svc.dataset.filelist import read_filelist
from svc.dataset.preprocess import PreprocessOptions, PreprocessReport, preprocess
from svc.errors import ConfigError, DatasetError, MissingFileError, OutputError, SvcError

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


def test_everything_that_training_reads(place: Path, encoder: Any, sine: Sine) -> None:
    make_dataset(sine, {"bob": 5, "alice": 4})
    told: list[tuple[int, int]] = []
    report = preprocess(options(), lambda done, total, _: told.append((done, total)))
    assert told == [(number, 9) for number in range(1, 10)]
    assert (report.computed, report.fresh, report.left_out) == (9, 0, [])
    assert {name: (s.speaker_id, s.train, s.validation) for name, s in report.speakers.items()} == {
        "alice": (0, 2, 2),
        "bob": (1, 3, 2),
    }
    train = read_filelist(Path("filelists/train.txt"))
    validation = read_filelist(Path("filelists/val.txt"))
    assert (len(train), len(validation)) == (5, 4)
    assert sorted(train + validation) == sorted(Path("dataset/44k").glob("*/*.wav"))
    config = load_config("configs/config.json")
    assert config.spk == {"alice": 0, "bob": 1}
    assert config.model.n_speakers == 2
    assert config.model.ssl_dim == 384
    assert config.data.training_files == "filelists/train.txt"
    cache = FeatureCache.from_config(config)
    for wav in train + validation:
        features = cache.load(wav)
        frames = soundfile.info(wav).frames // 512
        assert features.f0.shape == features.uv.shape == (frames,)
        assert features.volume is not None
        assert features.volume.shape == (frames,)
        assert features.units.shape[0] == 384
        assert features.spec is None
        assert float(features.uv.mean()) > 0.8
    # The tone's pitch and loudness are what was written.
    features = cache.load(Path("dataset/44k/bob/00.wav"))
    assert abs(float(features.f0.median()) - 150) < 2
    assert features.volume is not None
    assert abs(float(features.volume.median()) - 0.5 / 2**0.5) < 0.01


def test_the_diffusion_config_agrees(place: Path, encoder: Any, sine: Sine) -> None:
    make_dataset(sine, {"初音": 2, "123": 2, "no": 2})
    run(stage="config")
    diffusion = load_diffusion_config("configs/diffusion.yaml")
    assert diffusion.spk == load_config("configs/config.json").spk == {"123": 0, "no": 1, "初音": 2}
    assert diffusion.model.n_spk == 3
    assert (diffusion.data.encoder, diffusion.data.encoder_out_channels) == (
        "whisper-ppg-tiny",
        384,
    )
    raw = yaml.safe_load(Path("configs/diffusion.yaml").read_text(encoding="utf-8"))
    assert set(raw["spk"]) == {"123", "no", "初音"}


@pytest.mark.parametrize(
    ("changes", "ssl_dim", "gin", "filters"),
    [
        ({"speech_encoder": None}, 768, 768, 768),
        ({"speech_encoder": "vec256l9"}, 256, 256, 768),
        ({"speech_encoder": "whisper-ppg"}, 1024, 1024, 1024),
        ({"speech_encoder": "whisper-ppg-large"}, 1280, 1280, 1280),
        ({"speech_encoder": "vec256l9-onnx"}, 256, 256, 768),
        ({"speech_encoder": "vec768l12+whisper-ppg-tiny"}, 1152, 768, 768),
        ({"speech_encoder": "whisper-ppg+vec256l9"}, 1280, 1024, 1024),
        ({"speech_encoder": None, "tiny": True}, 768, 768, 512),
        ({"speech_encoder": "whisper-ppg", "tiny": True}, 1024, 1024, 512),
    ],
)
def test_widths_follow_the_encoder(
    place: Path, sine: Sine, changes: dict[str, Any], ssl_dim: int, gin: int, filters: int
) -> None:
    """spec_core 1.6; stage config needs no encoder file."""
    make_dataset(sine, {"a": 1})
    run(stage="config", vol_aug=True, **changes)
    config = load_config("configs/config.json")
    model = config.model
    assert (model.ssl_dim, model.gin_channels, model.filter_channels) == (ssl_dim, gin, filters)
    assert model.speech_encoder == (changes["speech_encoder"] or "vec768l12")
    diffusion = load_diffusion_config("configs/diffusion.yaml").data
    assert (diffusion.encoder, diffusion.encoder_out_channels) == (model.speech_encoder, ssl_dim)
    assert config.train.vol_aug
    assert model.vol_embedding
    assert model.use_depthwise_conv == changes.get("tiny", False)


def test_own_template_lists_and_config_paths(place: Path, sine: Sine) -> None:
    make_dataset(sine, {"a": 3}, root="other data")
    write_template = json.loads(Path(find("template.json")).read_text(encoding="utf-8"))
    write_template["train"]["batch_size"] = 3
    Path("mine.json").write_text(json.dumps(write_template), encoding="utf-8")
    run(
        stage="config",
        in_dir=Path("other data"),
        template="mine.json",
        config_path=Path("c/x.json"),
        train_list=Path("l/t.txt"),
        val_list=Path("l/v.txt"),
    )
    config = load_config("c/x.json")
    assert config.train.batch_size == 3
    assert (config.data.training_files, config.data.validation_files) == ("l/t.txt", "l/v.txt")
    assert len(read_filelist(Path("l/t.txt"))) == 1
    assert Path("c/diffusion.yaml").is_file()
    with pytest.raises(MissingFileError, match="nothing"):
        run(stage="config", in_dir=Path("other data"), template="nothing")


def find(name: str) -> Path:
    from svc.config import find_template

    return find_template(name)


def test_fresh_features_are_skipped_and_stale_ones_made_again(
    place: Path, encoder: Any, sine: Sine
) -> None:
    make_dataset(sine, {"a": 3})
    run()
    assert encoder.calls == 3
    times = {path: path.stat().st_mtime_ns for path in Path("dataset/44k/a").glob("*.soft.pt")}
    report = run()
    assert (report.computed, report.fresh, encoder.calls) == (0, 3, 3)
    # Another predictor makes new F0 and leaves the units, the expensive part, alone.
    report = run(f0_predictor="pm")
    assert (report.computed, report.fresh, encoder.calls) == (3, 0, 3)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    # A changed recording, and one whose file was lost.
    write(Path("dataset/44k/a/00.wav"), sine(333, 0.6))
    FeaturePaths.of(Path("dataset/44k/a/01.wav")).units.unlink()
    report = run(f0_predictor="pm")
    assert (report.computed, report.fresh, encoder.calls) == (2, 1, 5)
    # Resampling again writes the same samples: nothing to do.
    os.utime("dataset/44k/a/02.wav")
    assert run(f0_predictor="pm").fresh == 3


def test_the_spectrogram_is_written_on_request(place: Path, encoder: Any, sine: Sine) -> None:
    make_dataset(sine, {"a": 2})
    run()
    assert not list(Path("dataset").rglob("*.spec.pt"))
    run(spec_cache=True)
    spec = torch.load("dataset/44k/a/00.spec.pt", weights_only=True)
    assert spec.shape == (1025, soundfile.info("dataset/44k/a/00.wav").frames // 512)
    assert run(spec_cache=True).fresh == 2


def test_stages_do_their_part_only(place: Path, encoder: Any, sine: Sine) -> None:
    make_dataset(sine, {"a": 3})
    with pytest.raises(MissingFileError, match="svc preprocess"):
        run(stage="features")
    run(stage="config")
    assert not list(Path("dataset").rglob("*.pt"))
    before = {path: path.read_bytes() for path in place.glob("*/*.*")}
    report = run(stage="features", speech_encoder=None)
    assert report.computed == 3
    assert before == {path: path.read_bytes() for path in before}
    with pytest.raises(ConfigError, match=r'--speech_encoder vec256l9.*"whisper-ppg-tiny"'):
        run(stage="features", speech_encoder="vec256l9")
    make_dataset(sine, {"newcomer": 1})
    assert "newcomer" in run(stage="features").notes[0]


def test_ids_and_rows_survive_another_run(place: Path, sine: Sine) -> None:
    make_dataset(sine, {"b": 2, "d": 2})
    assert not run(stage="config").notes
    make_dataset(sine, {"a": 2})
    report = run(stage="config")
    assert load_config("configs/config.json").spk == {"a": 2, "b": 0, "d": 1}
    assert "kept from" in report.notes[0]
    for file in Path("dataset/44k/d").iterdir():
        file.unlink()
    Path("dataset/44k/d").rmdir()
    run(stage="config")
    config = load_config("configs/config.json")
    assert config.spk == {"a": 2, "b": 0}
    assert config.model.n_speakers == 3  # checkpoints still fit
    run(stage="config")
    assert load_config("configs/config.json").model.n_speakers == 3
    # Other speakers altogether: a new voice.
    make_dataset(sine, {"x": 2}, root="elsewhere")
    run(stage="config", in_dir=Path("elsewhere"))
    config = load_config("configs/config.json")
    assert (config.spk, config.model.n_speakers) == ({"x": 0}, 1)


def test_a_different_config_is_kept_as_bak(place: Path, sine: Sine) -> None:
    make_dataset(sine, {"a": 2})
    run(stage="config")
    run(stage="config")
    assert sorted(path.name for path in Path("configs").iterdir()) == [
        "config.json",
        "diffusion.yaml",
    ]
    first = Path("configs/config.json").read_bytes()
    notes = run(stage="config", speech_encoder="vec768l12").notes
    assert "config.json.bak" in notes[0]
    assert Path("configs/config.json.bak").read_bytes() == first
    second = Path("configs/config.json").read_bytes()
    run(stage="config", speech_encoder="vec256l9")
    assert Path("configs/config.json.bak").read_bytes() == first  # an older one is never lost
    assert Path("configs/config.json.bak2").read_bytes() == second
    Path("configs/config.json").write_text("{broken")
    notes = run(stage="config").notes
    assert any("not valid JSON" in note for note in notes)
    assert Path("configs/config.json.bak3").read_text() == "{broken"


def test_the_split_follows_the_seed(place: Path, sine: Sine) -> None:
    make_dataset(sine, {"a": 8})
    lists = []
    for seed in (1, 1, 2):
        run(stage="config", seed=seed)
        lists.append(Path("filelists/val.txt").read_text())
    assert lists[0] == lists[1] != lists[2]


def make_bad_clips(folder: Path, sine: Sine) -> dict[str, str]:
    write(folder / "silent.wav", np.zeros(44100, np.float32))
    write(folder / "short.wav", sine(300, 0.1))
    write(folder / "rate.wav", sine(300, 1.0, 48000), 48000)
    write(folder / "nan.wav", np.full(44100, np.nan, np.float32), subtype="FLOAT")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not audio")
    write(folder / "two\nlines.wav", sine(300, 1.0))
    return {
        "silent.wav": "silent",
        "short.wav": "too short: 0.10 s",
        "rate.wav": "48000 Hz, the config says 44100: run svc resample",
        "nan.wav": "NaN",
        "empty.wav": "empty",
        "text.wav": "text.wav",
        "two\nlines.wav": "line break",
    }


@pytest.mark.parametrize("stage", ["all", "config"])
def test_bad_clips_are_listed_and_stop_nothing(
    place: Path, encoder: Any, sine: Sine, stage: Any
) -> None:
    make_dataset(sine, {"a": 3, "b": 1})
    reasons = make_bad_clips(Path("dataset/44k/a"), sine)
    write(Path("dataset/44k/mute/x.wav"), np.zeros(44100, np.float32))
    report = run(stage=stage)
    found = {item.path.name: item.reason for item in report.left_out}
    assert found.keys() == {*reasons, "x.wav"}
    for name, reason in reasons.items():
        assert reason in found[name], name
    listed = read_filelist(Path("filelists/train.txt")) + read_filelist(Path("filelists/val.txt"))
    assert len(listed) == 4
    assert load_config("configs/config.json").spk == {"a": 0, "b": 1}
    assert any('"mute"' in note for note in report.notes)


def test_bad_clips_at_the_features_stage(place: Path, encoder: Any, sine: Sine) -> None:
    make_dataset(sine, {"a": 3})
    run(stage="config")
    reasons = make_bad_clips(Path("dataset/44k/a"), sine)
    report = run(stage="features")
    assert report.computed == 4  # the name with a line break has features all the same
    assert {item.path.name for item in report.left_out} == reasons.keys() - {"two\nlines.wav"}


def test_clips_of_any_sample_format_are_used(place: Path, encoder: Any, sine: Sine) -> None:
    """spec_core 10, D8: the same tone in four formats gives the same volume."""
    tone = sine(220, 1.0, amplitude=0.25)
    write(Path("dataset/44k/a/i16.wav"), tone)
    write(Path("dataset/44k/a/i24.WAV"), tone, subtype="PCM_24")
    write(Path("dataset/44k/a/f32.wav"), tone, subtype="FLOAT")
    write(Path("dataset/44k/a/stereo.wav"), np.stack([tone, tone], axis=1))
    assert run().computed == 4
    volumes = [np.load(path) for path in sorted(Path("dataset").rglob("*.vol.npy"))]
    assert len(volumes) == 4
    for volume in volumes:
        np.testing.assert_allclose(volume, volumes[0], atol=1e-4)


def test_a_clip_that_fails_on_the_way_leaves_the_lists(
    place: Path, encoder: Any, sine: Sine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(sine, {"a": 4})
    real = encoder.encode

    def sometimes(wav16k: torch.Tensor) -> torch.Tensor:
        if encoder.calls == 1:
            encoder.calls += 1
            raise RuntimeError("out of luck")
        return real(wav16k)

    monkeypatch.setattr(encoder, "encode", sometimes)
    report = run()
    assert [item.reason for item in report.left_out] == ["RuntimeError: out of luck"]
    lists = read_filelist(Path("filelists/train.txt")) + read_filelist(Path("filelists/val.txt"))
    assert len(lists) == 3
    assert report.left_out[0].path not in lists
    assert report.speakers["a"].train == 1
    assert run().computed == 1  # the next run tries it again
    monkeypatch.setattr(encoder, "encode", lambda _: torch.full((1, 384, 5), torch.nan))
    for path in Path("dataset").rglob("*.soft.pt"):
        path.unlink()
    with pytest.raises(DatasetError, match="no features could be made for any of the 4 clips"):
        run()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"use_diff": True}, r"nsf_hifigan/config\.json is missing: unpack .* --vocoder"),
        ({"use_diff": True, "vocoder": "my voc"}, r"vocoder's file my voc is missing"),
        ({"stage": "some"}, "--stage"),
        ({"f0_min": 0.0}, "--f0_min"),
        ({"f0_max": 20.0}, "--f0_max"),
        ({"jobs": -1}, "--num_processes"),
        ({"encoder_path": "none.pt"}, r"none\.pt is not there, the weights of whisper-ppg-tiny"),
        ({"encoder_path": "none.pt", "stage": "config"}, r"none\.pt is not there"),
        ({"encoder_path": "dphubert=none.pt"}, "--encoder_path dphubert=none.pt: expected one"),
        ({"encoder_precision": "fp8"}, 'precision "fp8".*bf16'),
        ({"encoder_batch": 0}, "--encoder_batch must be 1 or more, found 0"),
        ({"speech_encoder": "dphubert+whisper-pgg"}, '"whisper-pgg" in "dphubert'),
        ({"speech_encoder": "whisper-ppg-tiny+wavlmbase+"}, "WavLM-Base.* is missing"),
        ({"speech_encoder": "vec768"}, "vec768l12"),
        ({"f0_predictor": "rmvpe"}, "rmvpe.pt is missing"),
        ({"f0_predictor": "harvset"}, 'did you mean "harvest"'),
        ({"speech_encoder": "hubertsoft"}, "hubert-soft-0d54a1f4.pt is missing"),
        ({"speech_encoder": "vec768l12"}, "checkpoint_best_legacy_500.pt"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"template": "none.json"}, "none.json"),
    ],
)
def test_what_cannot_work_is_refused_before_any_file_is_written(
    place: Path, sine: Sine, changes: dict[str, Any], text: str
) -> None:
    make_dataset(sine, {"a": 3})
    before = sorted(place.rglob("*"))
    with pytest.raises(SvcError, match=text) as caught:
        run(**changes)
    assert "\n" not in str(caught.value)
    assert sorted(place.rglob("*")) == before


def test_folders_that_are_no_data_set(place: Path, encoder: Any, sine: Sine) -> None:
    with pytest.raises(DatasetError, match="is not there"):
        run()
    Path("dataset/44k").mkdir(parents=True)
    with pytest.raises(DatasetError, match="is empty"):
        run()
    write(Path("dataset/44k/song.wav"), sine(300, 1.0))
    with pytest.raises(DatasetError, match="sub-folder named after the voice"):
        run()
    Path("dataset/44k/song.wav").unlink()
    make_bad_clips(write(Path("dataset/44k/a/x.wav"), np.zeros(99)).parent, sine)
    with pytest.raises(DatasetError, match="not one clip in"):
        run()
    assert not Path("configs").exists()


@pytest.mark.parametrize(
    "name", ["keys", "a|b", "初音 ミク", "🎤", 'it\'s "q"', "x.wav", "n" * 200]
)
def test_odd_speaker_names(place: Path, encoder: Any, sine: Sine, name: str) -> None:
    for index in range(3):
        write(Path("dataset/44k") / name / f"{name[:150]} {index}.wav", sine(300, 0.5))
    report = run()
    assert report.computed == 3
    config = load_config("configs/config.json")
    assert config.spk == {name: 0}
    assert load_diffusion_config("configs/diffusion.yaml").spk == {name: 0}
    listed = read_filelist(Path("filelists/train.txt")) + read_filelist(Path("filelists/val.txt"))
    assert len(listed) == 3
    for wav in listed:
        assert wav.parent.name == name
        FeatureCache.from_config(config).load(wav)


def test_a_full_disk_ends_the_run(
    place: Path, encoder: Any, sine: Sine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(sine, {"a": 3})
    run(stage="config")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("svc.atomic.os.replace", full)
    with pytest.raises(OutputError, match="no space left on the disk"):
        run(stage="features")
    assert not list(Path("dataset").rglob("*.soft.pt"))
    assert not list(Path("dataset").rglob(".tmp*"))


def test_long_clips_are_pointed_out(place: Path, sine: Sine) -> None:
    write(Path("dataset/44k/a/long.wav"), sine(300, 31.0))
    write(Path("dataset/44k/a/ok.wav"), sine(300, 2.0))
    (note,) = run(stage="config").notes
    assert "long.wav" in note
    assert "svc slice" in note


def test_config_of_another_width_is_refused(place: Path, encoder: Any, sine: Sine) -> None:
    make_dataset(sine, {"a": 2})
    run(stage="config")
    path = Path("configs/config.json")
    path.write_text(path.read_text().replace('"ssl_dim": 384', '"ssl_dim": 768'))
    before = sorted(place.rglob("*"))
    with pytest.raises(
        ConfigError, match=r'"whisper-ppg-tiny", whose units are 384 wide.* 768 wide'
    ):
        run(stage="features", speech_encoder=None)
    assert sorted(place.rglob("*")) == before
    assert encoder.calls == 0


@pytest.mark.slow
@pytest.mark.parametrize("predictor", ["fcpe"])
def test_the_real_encoder_in_two_processes_gives_the_same(
    place: Path, sine: Sine, predictor: str
) -> None:
    make_dataset(sine, {"a": 2, "b": 1})
    run(f0_predictor=predictor)
    wavs = sorted(Path("dataset").rglob("*.wav"))
    cache = FeatureCache.from_config(load_config("configs/config.json"))
    alone = [cache.load(wav) for wav in wavs]
    for path in Path("dataset").rglob("*.*.*"):
        path.unlink()
    (Path("dataset/44k/a/bad.wav")).write_text("not audio")
    report = run(f0_predictor=predictor, jobs=2)
    assert (report.computed, len(report.left_out)) == (3, 1)
    for wav, expected in zip(wavs, alone, strict=True):
        found = cache.load(wav)
        torch.testing.assert_close(found.units, expected.units, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.f0, expected.f0, atol=1e-2, rtol=1e-4)
        assert torch.equal(found.uv, expected.uv)
        assert found.units.shape[1] == pytest.approx(soundfile.info(wav).duration * 50, abs=2)
        assert float(found.units.std()) > 0.1
