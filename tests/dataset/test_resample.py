"""Recordings of every kind to clips of one kind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svc.dataset.resample import ResampleOptions, prepare_clip, resample_dataset
from svc.errors import ConfigError, DatasetError

Sine = Callable[..., np.ndarray]


def write(path: Path, wav: np.ndarray, sr: int = 44100, subtype: str = "PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, sr, subtype=subtype)
    return path


def level_db(wav: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(np.square(wav)))))


@pytest.mark.parametrize(
    ("name", "sr", "subtype", "channels"),
    [
        ("a.wav", 44100, "PCM_16", 1),
        ("a.WAV", 48000, "PCM_24", 2),
        ("a.wav", 8000, "PCM_U8", 1),
        ("a.wav", 96000, "FLOAT", 1),
        ("a.wav", 22050, "DOUBLE", 3),
        ("a.flac", 16000, "PCM_16", 2),
        ("a.ogg", 44100, "VORBIS", 1),
        ("a.mp3", 32000, "MPEG_LAYER_III", 2),
        ("a.aiff", 11025, "PCM_32", 1),
    ],
)
def test_every_kind_of_file(
    tmp_path: Path, sine: Sine, name: str, sr: int, subtype: str, channels: int
) -> None:
    wav = np.stack([sine(220, 1.0, sr, 0.4)] * channels, axis=1)
    write(tmp_path / "raw/alice" / name, wav, sr, subtype)
    report = resample_dataset(ResampleOptions(tmp_path / "raw", tmp_path / "44k"))
    out = tmp_path / "44k/alice/a.wav"
    assert report.written == [out]
    assert not report.left_out
    info = soundfile.info(out)
    assert (info.samplerate, info.channels, info.subtype) == (44100, 1, "PCM_16")
    samples, _ = soundfile.read(out, dtype="int16")
    assert abs(len(samples) / 44100 - 1.0) < (0.06 if subtype == "MPEG_LAYER_III" else 0.03)
    assert np.abs(samples.astype(int)).max() in (32767, 32768)
    spectrum = np.abs(np.fft.rfft(samples[4410:-4410] * np.hanning(len(samples) - 8820)))
    assert abs(spectrum.argmax() * 44100 / (len(samples) - 8820) - 220) < 2


@pytest.mark.parametrize("sr", [16000, 44100, 48000])
def test_peak_is_what_the_original_does(sr: int, rng: np.random.Generator) -> None:
    """spec_core 6.2 step by step with librosa; at most 2 of 65536 levels apart."""
    import librosa.effects

    body = rng.standard_normal(sr * 2) * np.hanning(sr * 2) * 0.1
    wav = np.concatenate([np.zeros(sr // 2), body, np.zeros(sr // 3)]).astype(np.float32)
    trimmed, _ = librosa.effects.trim(wav, top_db=40)
    resampled = librosa.core.resample(trimmed, orig_sr=sr, target_sr=44100, res_type="soxr_hq")
    expected = (resampled / np.abs(resampled).max() * 32767).astype(np.int16)
    ours = prepare_clip(wav, sr, sampling_rate=44100)
    assert len(ours) == len(expected)
    levels = np.clip(np.rint(ours * 32768.0), -32768, 32767)
    assert np.abs(levels - expected).max() <= 2


def test_lufs_meets_the_target_and_never_clips(rng: np.random.Generator) -> None:
    import pyloudnorm

    # Soft noise with a few loud clicks: raising it to -18 LUFS would clip by far.
    wav = (0.01 * rng.standard_normal(44100 * 4)).astype(np.float32)
    wav[::40000] = 0.9
    clip = prepare_clip(wav, 44100, sampling_rate=44100, loudness="lufs")
    assert np.abs(clip).max() <= 10 ** (-1 / 20)
    assert pyloudnorm.Meter(44100).integrated_loudness(clip.astype(np.float64)) > -19.5
    for gain in (0.01, 0.3):
        voice = gain * np.sin(np.arange(44100 * 3) * 0.05).astype(np.float32)
        clip = prepare_clip(voice, 44100, sampling_rate=44100, loudness="lufs")
        loudness = pyloudnorm.Meter(44100).integrated_loudness(clip.astype(np.float64))
        assert abs(loudness + 18) < 0.1


def test_none_keeps_the_level_and_clips_instead_of_wrapping(sine: Sine) -> None:
    quiet = sine(300, 1.0, 48000, 0.05)
    kept = prepare_clip(quiet, 48000, sampling_rate=44100, loudness="none")
    assert abs(level_db(kept) - level_db(quiet)) < 0.1
    square = np.sign(sine(100, 1.0, 48000)).astype(np.float32)  # overshoots when resampled
    clip = prepare_clip(square, 48000, sampling_rate=44100, loudness="none")
    assert np.abs(clip).max() <= 1.0
    middle = clip[2000:-2000]
    assert np.count_nonzero(np.diff(np.sign(middle))) <= 2 * 100 + 2  # no spikes of the other sign


def test_floats_beyond_full_scale_are_scaled(sine: Sine) -> None:
    clip = prepare_clip(sine(300, 1.0, amplitude=3.0), 44100, sampling_rate=44100, loudness="none")
    assert abs(np.abs(clip).max() - 0.98) < 1e-3


def test_silence_at_the_ends_goes(sine: Sine) -> None:
    wav = np.concatenate([np.zeros(44100), sine(300, 1.0), np.zeros(22050)]).astype(np.float32)
    clip = prepare_clip(wav, 44100, sampling_rate=44100)
    assert 1.0 <= len(clip) / 44100 < 1.1


def make_bad_files(folder: Path, sine: Sine) -> dict[str, str]:
    """Write one file of each kind of trouble; returns name -> what the reason must say."""
    write(folder / "silent.wav", np.zeros(44100, np.float32))
    write(folder / "faint.wav", sine(300, 1.0, amplitude=0.0005), subtype="PCM_24")
    write(folder / "short.wav", sine(300, 0.1))
    write(folder / "click.wav", np.pad(sine(300, 0.05), 44100))
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not audio")
    whole = write(folder / "cut.wav", sine(300, 2.0)).read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    write(folder / "nan.wav", np.full(44100, np.nan, np.float32), subtype="FLOAT")
    return {
        "silent.wav": "silent",
        "faint.wav": "silent: its peak is -66 dBFS",
        "short.wav": "too short: 0.10 s",
        "click.wav": "after trimming",
        "empty.wav": "empty",
        "text.wav": "text.wav",
        "cut.wav": "truncated",
        "nan.wav": "NaN",
    }


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_files_are_listed_and_stop_nothing(tmp_path: Path, sine: Sine, jobs: int) -> None:
    write(tmp_path / "raw/alice/good.wav", sine(300, 1.0))
    reasons = make_bad_files(tmp_path / "raw/alice", sine)
    told: list[tuple[int, int]] = []
    report = resample_dataset(
        ResampleOptions(tmp_path / "raw", tmp_path / "44k", jobs=jobs),
        lambda done, total, what: told.append((done, total)),
    )
    assert [path.name for path in report.written] == ["good.wav"]
    assert [path.name for path in (tmp_path / "44k/alice").iterdir()] == ["good.wav"]
    found = {item.path.name: item.reason for item in report.left_out}
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in found[name], name
        assert "\n" not in found[name]
    assert told == [(number, 9) for number in range(1, 10)]


def test_nothing_usable_is_an_error(tmp_path: Path, sine: Sine) -> None:
    make_bad_files(tmp_path / "raw/alice", sine)
    with pytest.raises(DatasetError, match="not one of the 8 recordings"):
        resample_dataset(ResampleOptions(tmp_path / "raw", tmp_path / "44k"))
    assert not (tmp_path / "44k").exists()


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.wav"))
    }


def test_the_same_every_time_in_any_number_of_processes(tmp_path: Path, sine: Sine) -> None:
    for speaker in ("b", "a"):
        for index in range(3):
            write(
                tmp_path / f"raw/{speaker}/{index}.wav", sine(200 + 50 * index, 0.5 + index), 32000
            )
    reports = [
        resample_dataset(ResampleOptions(tmp_path / "raw", tmp_path / f"out{jobs}", jobs=jobs))
        for jobs in (1, 2)
    ]
    assert len(hashes(tmp_path / "out1")) == 6
    assert hashes(tmp_path / "out1") == hashes(tmp_path / "out2")
    assert reports[0].seconds == reports[1].seconds
    assert list(reports[1].seconds) == ["a", "b"]
    before = hashes(tmp_path / "out1")
    resample_dataset(ResampleOptions(tmp_path / "raw", tmp_path / "out1"))
    assert hashes(tmp_path / "out1") == before


def test_names_that_collide_are_told_apart(tmp_path: Path, sine: Sine) -> None:
    raw = tmp_path / "raw/alice"
    for index, name in enumerate(
        ("a.flac", "a.ogg", "a.wav", "a_flac.wav", "b.c.wav", "e\u0301.wav")
    ):
        write(
            raw / name, sine(200 + 10 * index, 1.0), subtype="VORBIS" if "ogg" in name else "PCM_16"
        )
    write(raw / "\u00e9.wav", sine(440, 1.0))
    report = resample_dataset(ResampleOptions(tmp_path / "raw", tmp_path / "44k"))
    names = sorted(path.name for path in (tmp_path / "44k/alice").iterdir())
    assert len(names) == 7
    assert {"a.wav", "a_ogg.wav", "a_flac.wav", "a_flac_2.wav", "b.c.wav"} <= set(names)
    assert sum("its name is taken" in note for note in report.notes) == 3
    kept, _ = soundfile.read(tmp_path / "44k/alice/a.wav")
    assert np.abs(np.fft.rfft(kept)).argmax() * 44100 / len(kept) == pytest.approx(220, abs=2)


@pytest.mark.parametrize(
    "name", ["keys", "a|b", "初音 ミク", "🎤", 'it\'s "q"', "x.wav", "n" * 200]
)
def test_odd_names(tmp_path: Path, sine: Sine, name: str) -> None:
    write(tmp_path / "raw" / name / f"{name}.flac", sine(300, 0.5))
    report = resample_dataset(ResampleOptions(tmp_path / "raw", tmp_path / "44k"))
    assert report.written == [tmp_path / "44k" / name / f"{name}.wav"]
    assert report.written[0].is_file()


def test_what_is_passed_over_is_told(tmp_path: Path, sine: Sine) -> None:
    write(tmp_path / "raw/alice/a.wav", sine(300, 0.5))
    write(tmp_path / "raw/alice/session 1/b.wav", sine(300, 0.5))
    write(tmp_path / "raw/loose.wav", sine(300, 0.5))
    write(tmp_path / "44k/alice/old.wav", sine(300, 0.5))
    report = resample_dataset(ResampleOptions(tmp_path / "raw", tmp_path / "44k"))
    notes = "\n".join(report.notes)
    for text in ("session 1", "loose.wav", "old.wav"):
        assert text in notes
    assert (tmp_path / "44k/alice/old.wav").is_file()  # told, not deleted


def test_the_output_may_not_lie_in_the_input(tmp_path: Path, sine: Sine) -> None:
    source = write(tmp_path / "raw/alice/a.wav", sine(300, 0.5))
    before = source.read_bytes()
    for out in (tmp_path / "raw", tmp_path / "raw/44k", tmp_path / "44k/../raw"):
        with pytest.raises(ConfigError, match="choose another folder"):
            resample_dataset(ResampleOptions(tmp_path / "raw", out))
    assert source.read_bytes() == before


def test_an_output_that_cannot_be_written(tmp_path: Path, sine: Sine) -> None:
    write(tmp_path / "raw/alice/a.wav", sine(300, 0.5))
    write(tmp_path / "raw/bob/a.wav", sine(300, 0.5))
    (tmp_path / "44k").mkdir()
    (tmp_path / "44k/alice").write_text("in the way")
    report = resample_dataset(ResampleOptions(tmp_path / "raw", tmp_path / "44k"))
    assert [path.parent.name for path in report.written] == ["bob"]
    assert "a file of that name" in report.left_out[0].reason


@pytest.mark.parametrize(
    "options", [{"loudness": "loud"}, {"sampling_rate": 0}, {"sampling_rate": 10**6}, {"jobs": -1}]
)
def test_bad_options_name_the_flag(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--"):
        ResampleOptions(**options)  # type: ignore[arg-type]
