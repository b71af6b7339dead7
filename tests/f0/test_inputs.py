"""What every predictor promises for short, empty, silent and broken waves, and for its settings."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from svc.checkpoint import load_checkpoint
from svc.errors import AudioError, CheckpointError, ConfigError, MissingFileError
from svc.f0 import build_f0_predictor
from svc.f0.fcpe import decode_salience
from svc.f0.settings import F0Settings
from svc.f0.swift import swift_asset
from svc.pretrained import torchfcpe_asset

Wave = npt.NDArray[np.float32]
# crepe is crepe-tiny with a larger net; rmvpe has no weights here, and tests of its own.
NAMES = ["pm", "dio", "harvest", "crepe-tiny", "fcpe", "ensemble:dio+crepe-tiny+pm"]
if swift_asset() is not None:
    NAMES.append("swift")
each = pytest.mark.parametrize("name", NAMES)


@each
@pytest.mark.parametrize("samples", [0, 1, 511, 512, 1000, 1764, 4409, 4410, 5000])
def test_any_length(voice: Callable[..., Wave], name: str, samples: int) -> None:
    """Short waves are padded inside; below one hop the track is empty."""
    wav = voice(np.full(samples, 220.0)) if samples else np.zeros(0, np.float32)
    track = build_f0_predictor(name)(wav)
    assert track.f0.shape == track.uv.shape == (samples // 512,)
    assert track.f0.dtype == track.uv.dtype == np.float32
    assert np.isfinite(track.f0).all()


@pytest.mark.parametrize("name", ["pm", "harvest", "fcpe"])
def test_fifty_milliseconds_have_a_pitch(voice: Callable[..., Wave], name: str) -> None:
    """Praat itself refuses such a clip; dio accepts it and hears nothing in it."""
    track = build_f0_predictor(name)(voice(np.full(2205, 440.0)))
    voiced = track.f0[track.uv > 0]
    assert len(voiced)
    assert abs(1200 * np.log2(np.median(voiced) / 440)) < 60


@each
@pytest.mark.parametrize("seconds", [0.05, 1.0])
def test_silence_is_all_unvoiced(name: str, seconds: float) -> None:
    track = build_f0_predictor(name)(np.zeros(int(44100 * seconds), np.float32))
    np.testing.assert_array_equal(track.f0, 0)
    np.testing.assert_array_equal(track.uv, 0)


@each
def test_what_is_no_wave_is_refused(name: str) -> None:
    predictor = build_f0_predictor(name)
    for length in (100, 10_000):
        wav = np.zeros(length, np.float32)
        wav[7] = np.nan
        wav[9] = -np.inf
        with pytest.raises(AudioError, match=f"2 samples of {length}"):
            predictor(wav)
    with pytest.raises(ValueError, match="mono"):
        predictor(np.zeros((2, 10_000), np.float32))


@each
def test_the_input_is_left_alone_and_the_result_repeats(
    voice: Callable[..., Wave], name: str
) -> None:
    wav = voice(np.full(20_000, 300.0))[::2]  # not contiguous
    kept = wav.copy()
    predictor = build_f0_predictor(name, sampling_rate=22050)
    first = predictor(wav)
    np.testing.assert_array_equal(wav, kept)
    np.testing.assert_array_equal(
        first.f0, predictor(kept.astype(np.float64).astype(np.float32)).f0
    )


@each
def test_the_range_is_honoured(voice: Callable[..., Wave], name: str) -> None:
    """Pitches inside the range are found, pitches outside are not reported."""
    vibrato = 1 + 0.005 * np.sin(2 * np.pi * 5 * np.arange(44100) / 44100)
    for hz, narrow in ((900.0, {"f0_max": 600.0}), (75.0, {"f0_min": 100.0})):
        wav = voice(hz * vibrato)
        found = build_f0_predictor(name)(wav)
        assert found.uv.mean() > 0.8
        assert abs(1200 * np.log2(np.median(found.f0[found.uv > 0]) / hz)) < 20
        limits = {"f0_min": 50.0, "f0_max": 1100.0, **narrow}
        track = build_f0_predictor(name, **limits)(wav)  # type: ignore[arg-type]
        inside = (track.f0 >= limits["f0_min"] * 0.99) & (track.f0 <= limits["f0_max"] * 1.01)
        assert (inside | (track.f0 == 0)).all()


@pytest.mark.parametrize("name", ["pm", "dio"])
def test_a_soprano_above_the_default_range(voice: Callable[..., Wave], name: str) -> None:
    track = build_f0_predictor(name, f0_max=1800.0)(voice(np.full(44100, 1400.0)))
    assert track.uv.mean() > 0.8
    assert abs(1200 * np.log2(np.median(track.f0[track.uv > 0]) / 1400)) < 20


def test_compat_fcpe_ignores_the_range(voice: Callable[..., Wave]) -> None:
    wav = voice(np.full(44100, 700.0))
    track = build_f0_predictor("fcpe", f0_max=500.0, compat=True)(wav)
    assert abs(1200 * np.log2(np.median(track.f0[track.uv > 0]) / 700)) < 20


def test_the_threshold_of_fcpe(shared: Path) -> None:
    from svc.audio.io import read_audio

    wav, sr = read_audio(shared / "audio" / "singing" / "martin" / "note_G3-3.flac")
    voiced = [
        build_f0_predictor("fcpe", sampling_rate=sr, threshold=threshold)(wav).uv.sum()
        for threshold in (0.0, 0.05, 0.5, 0.99)
    ]
    assert voiced == sorted(voiced, reverse=True)
    assert voiced[0] == len(wav) // 512
    assert voiced[-1] < voiced[1]


@pytest.mark.parametrize(
    ("classic", "compat", "expected"),
    [(True, False, 300.0), (True, True, 0.0), (False, True, 300.0)],
)
def test_one_voiced_frame(classic: bool, compat: bool, expected: float) -> None:
    """The original's pm, dio and harvest lose it; compat mode shows that, the default does not."""
    settings = F0Settings(compat=compat)
    track = settings.finish(np.array([0.0, 300.0, 0.0]), classic=classic)
    np.testing.assert_array_equal(track.f0, expected)
    np.testing.assert_array_equal(track.uv, [0, 1, 0])
    nothing = settings.finish(np.zeros(3), classic=classic)
    np.testing.assert_array_equal(nothing.f0, 0)


def test_decoding_at_the_ends_of_the_table() -> None:
    """Bins beyond the table repeat its end bins, several times weighted; no salience is unvoiced,
    not NaN.
    """
    table = torch.linspace(2000.0, 9000.0, 360)
    salience = torch.zeros(4, 360)
    salience[0, 0], salience[0, 1] = 0.9, 0.3
    salience[1, 359] = 0.5
    salience[2, 100] = 0.05
    f0 = decode_salience(salience, table, 0.05)
    # Bin 0 counts five times (offsets -4..0), bin 1 once.
    mean = (5 * 0.9 * table[0] + 0.3 * table[1]) / (5 * 0.9 + 0.3)
    torch.testing.assert_close(f0[0], 10 * 2 ** (mean / 1200))
    torch.testing.assert_close(f0[1], 10 * 2 ** (table[359] / 1200))
    assert f0[2:].tolist() == [0, 0]  # exactly at the threshold is unvoiced


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"f0_min": 0.0}, "0 < f0_min < f0_max"),
        ({"f0_min": 500.0, "f0_max": 400.0}, "500.0 and 400.0 Hz"),
        ({"sampling_rate": 2000}, "half the sampling rate, 1000 Hz"),
        ({"sampling_rate": 0}, "sampling rate 0"),
        ({"hop_length": 0}, "hop length 0"),
        ({"threshold": 1.5}, "threshold must lie in 0..1"),
        ({"f0_max": float("nan")}, "0 < f0_min < f0_max"),
    ],
)
def test_settings_are_checked(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_f0_predictor("pm", **options)  # type: ignore[arg-type]


def test_fcpe_prefers_the_users_file_and_logs_it(
    golden: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "svc.f0")
    build_f0_predictor("fcpe", pretrain_dir=tmp_path)
    assert "fcpe_c_v001.pt (convolutions only)" in caplog.text
    shutil.copyfile(golden / "golden_enc_tiny_fcpe.pt", tmp_path / "fcpe.pt")
    build_f0_predictor("fcpe", pretrain_dir=tmp_path)
    assert f"{tmp_path / 'fcpe.pt'} (attention, so-vits-svc 4.1)" in caplog.text


def test_fcpe_without_any_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svc.f0.fcpe.torchfcpe_asset", lambda: None)
    with pytest.raises(MissingFileError, match=r"fcpe\.pt.*torchfcpe.*pm, dio or harvest"):
        build_f0_predictor("fcpe", pretrain_dir=tmp_path)


def test_a_bad_fcpe_file_is_an_error_and_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "fcpe.pt"
    asset = torchfcpe_asset()
    assert asset is not None
    path.write_bytes(asset.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"fcpe\.pt.*truncated"):
        build_f0_predictor("fcpe", pretrain_dir=tmp_path)
    good = load_checkpoint(asset)
    for change, words in (
        ({"model": 3}, "holds no weights"),
        ({"model": {"x": torch.ones(2)}}, "holds no FCPE net: no tensor 'stack.0.weight'"),
        ({"config_dict": None}, "has no config"),
        ({"config_dict": {"mel": {}, "model": {}}}, "unusable mel settings"),
        ({"config_dict": {**good["config_dict"], "model": {"confidence": True}}}, '"confidence"'),
        (
            {
                "config_dict": {
                    **good["config_dict"],
                    "mel": {**good["config_dict"]["mel"], "num_mels": 80},
                }
            },
            "80 mel bands, the net has 128",
        ),
    ):
        torch.save({**good, **change}, path)
        with pytest.raises(CheckpointError, match=words):
            build_f0_predictor("fcpe", pretrain_dir=tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_hostile_files_run_nothing(tmp_path: Path, zipped: bool) -> None:
    import os

    target = tmp_path / "attacked"

    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(target),)

    torch.save(
        {"config": Attack(), "model": {}},
        tmp_path / "fcpe.pt",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError, match=r"would call.*mkdir"):
        build_f0_predictor("fcpe", pretrain_dir=tmp_path)
    assert not target.exists()


def test_no_package_with_torchaudio_is_imported() -> None:
    build_f0_predictor("fcpe")(np.zeros(5000, np.float32))
    assert not {"torchfcpe", "torchcrepe", "torchaudio"} & set(sys.modules)
