"""What `svc preprocess --use_diff` adds: names, content, freshness, and the original's files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from svc.audio.loudness import frame_volume
from svc.audio.mel import vocoder_mel
from svc.config import load_config, load_diffusion_config
from svc.dataset.augment import augment, draw_change
from svc.dataset.configs import ConfigOptions
from svc.dataset.feature_settings import MEL_PARTS, FeatureSettings
from svc.dataset.features import FeatureCache, FeaturePaths
from svc.dataset.old_arrays import read_augmented
from svc.dataset.preprocess import PreprocessOptions, PreprocessReport, preprocess
from svc.errors import ConfigError, DatasetError, MissingFileError

VOCODER = {
    "resblock": "1", "upsample_rates": [8, 8, 2, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4, 4],
    "upsample_initial_channel": 32, "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]], "num_mels": 20, "n_fft": 2048, "win_size": 2048,
    "hop_size": 512, "sampling_rate": 44100, "fmin": 40, "fmax": 16000,
}  # fmt: skip
CLIP = Path("dataset/44k/bob/00.wav")


@pytest.fixture
def data(place: Path, sine: Callable[..., np.ndarray]) -> Path:
    """Two voices with three tones each, and the config of a vocoder without its weights."""
    for number, voice in enumerate(("alice", "bob")):
        for index in range(3):
            path = Path("dataset/44k", voice, f"{index:02d}.wav")
            path.parent.mkdir(parents=True, exist_ok=True)
            tone = sine(150 + 60 * number + 5 * index, 0.5 + 0.01 * index, amplitude=0.2)
            soundfile.write(path, tone, 44100, subtype="PCM_16")
    write_vocoder(place / "pretrain/nsf_hifigan")
    return place


def write_vocoder(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**VOCODER, **changes}))


def run(**changes: Any) -> PreprocessReport:
    names = ConfigOptions.__dataclass_fields__
    configs = {key: changes.pop(key) for key in list(changes) if key in names}
    return preprocess(
        PreprocessOptions(
            configs=ConfigOptions(speech_encoder="whisper-ppg-tiny", **configs),
            **{"f0_predictor": "dio", "device": "cpu", "use_diff": True, **changes},
        )
    )


def settings(**changes: Any) -> FeatureSettings:
    mel = vocoder_mel(n_mels=20).config
    return FeatureSettings("whisper-ppg-tiny", 44100, 512, **{"mel": mel, **changes})


def files(*endings: str) -> dict[Path, bytes]:
    names = endings or (".mel.npy", ".aug_mel.npy", ".aug_vol.npy")
    return {path: path.read_bytes() for end in names for path in Path().rglob(f"*{end}")}


def test_files_of_the_diffusion_model(data: Path, encoder: Any) -> None:
    assert run().computed == 6
    assert sorted(path.name for path in files() if path.parent.name == "bob") == [
        f"0{index}.wav{end}" for index in range(3) for end in (".aug_mel.npy", ".aug_vol.npy", ".mel.npy")
    ]  # fmt: skip
    wav = torch.from_numpy(soundfile.read(CLIP, dtype="float32")[0])[None]
    log_mel, frames = vocoder_mel(n_mels=20), wav.shape[1] // 512
    mel = np.load(f"{CLIP}.mel.npy")  # plain arrays: allow_pickle is off
    assert (mel.dtype, mel.shape) == (np.float32, (frames, 20))
    np.testing.assert_array_equal(mel, log_mel(wav)[0].T.numpy())
    augmented, volume = np.load(f"{CLIP}.aug_mel.npy"), np.load(f"{CLIP}.aug_vol.npy")
    assert (augmented.dtype, augmented.shape) == (np.float32, (frames, 21))
    assert (volume.dtype, volume.shape) == (np.float32, (frames,))
    shift = float(augmented[0, -1])
    assert -5 < shift < 5
    assert (augmented[:, -1] == shift).all()
    # The pair belongs together: mel and volume are those of the clip times one gain.
    gain = float(np.median(volume / frame_volume(wav, 512)[0].numpy()))
    assert 0.1 <= gain <= min(10, 1 / float(wav.abs().max()))
    changed = log_mel(wav * gain, key_shift=shift)[0].T.numpy()
    np.testing.assert_allclose(augmented[:, :-1], changed, atol=1e-3)
    loaded = FeatureCache(settings()).load_mels(CLIP)
    assert loaded.key_shift == shift
    np.testing.assert_array_equal(loaded.mel, mel)
    np.testing.assert_array_equal(loaded.aug_mel, augmented[:, :-1])
    np.testing.assert_array_equal(loaded.aug_volume, volume)


def test_a_key_shift_moves_the_tone(sine: Callable[..., np.ndarray]) -> None:
    """A tone shifted by k semitones looks like the tone k semitones higher."""
    log_mel, shift = vocoder_mel(n_mels=128), 4.0
    low, high = (torch.from_numpy(sine(hz, 0.5)) for hz in (400, 400 * 2 ** (shift / 12)))
    parts = augment(low, log_mel, gain=1.0, key_shift=shift)
    moved, there = parts["aug_mel"][10, :-1], log_mel(high[None])[0, :, 10]
    assert int(moved.argmax()) == int(there.argmax()) != int(log_mel(low[None])[0, :, 10].argmax())
    assert float((moved.max() - there.max()).abs()) < 0.2
    assert parts["aug_volume"].shape == parts["aug_mel"].shape[:1]


def test_changes_follow_the_formula() -> None:
    """spec_diffusion 10: 10^U(-1, min(1, log10(1 / max_amp))), and U(-5, 5) semitones."""
    for peak, highest in ((0.9, 1 / 0.9), (0.05, 10.0), (2.0, 0.5)):
        drawn = np.array([draw_change(Path("v", f"{i}.wav"), 3, peak) for i in range(800)])
        gain = np.log10(drawn[:, 0])
        assert gain.min() == pytest.approx(-1, abs=0.02)
        assert gain.max() == pytest.approx(math.log10(highest), abs=0.02)
        assert gain.mean() == pytest.approx((math.log10(highest) - 1) / 2, abs=0.06)
        assert np.abs(drawn[:, 1]).max() == pytest.approx(5, abs=0.05)
        assert abs(drawn[:, 1].mean()) < 0.3
        assert drawn[0, 1] == np.float32(drawn[0, 1])


def test_the_same_clips_give_the_same_files(data: Path, encoder: Any) -> None:
    run()
    before = files()
    for path in before:
        path.unlink()
    assert run(jobs=1, encoder_batch=3).computed == 6
    assert files() == before
    moved = draw_change(Path("elsewhere/bob/00.wav"), 1234, 0.2)
    assert moved == draw_change(CLIP, 1234, 0.2) != draw_change(CLIP, 1235, 0.2)
    assert moved != draw_change(CLIP.with_name("01.wav"), 1234, 0.2)
    assert moved != draw_change(Path("dataset/44k/alice/00.wav"), 1234, 0.2)


def test_what_is_up_to_date_is_kept(data: Path, encoder: Any) -> None:
    run()
    before, calls = files(), encoder.calls
    assert (run().fresh, files()) == (6, before)
    # One of a pair is lost: both are made again, and nothing else.
    Path(f"{CLIP}.aug_vol.npy").unlink()
    Path(f"{CLIP}.aug_mel.npy").write_bytes(b"another pair's")
    assert (run().computed, run().fresh) == (1, 6)
    assert files() == before
    assert encoder.calls == calls
    # Another seed changes what is random, and the list of validation clips; the mels stay.
    assert run(seed=5).computed == 6
    after = files()
    assert all((after[path] == before[path]) == (".aug_" not in path.name) for path in before)
    # Without the flag they are not looked at, and features that are made anew do not forget them.
    run(use_diff=False, seed=5, f0_predictor="pm")
    assert run(seed=5, f0_predictor="pm").fresh == 6
    # Another clip of the same name: all anew.
    soundfile.write(CLIP, np.sin(np.arange(20000) / 30).astype(np.float32) * 0.3, 44100)
    assert run(seed=5, f0_predictor="pm").computed == 1
    assert len(np.load(f"{CLIP}.mel.npy")) == 20000 // 512


def test_another_vocoder_makes_mels_stale(data: Path, encoder: Any) -> None:
    run()
    cache = FeatureCache(settings())
    cache.load_mels(CLIP)
    write_vocoder(data / "mine", num_mels=24, fmax=15000)
    assert run(vocoder="mine").computed == 6
    assert load_diffusion_config("configs/diffusion.yaml").vocoder.ckpt == "mine"
    assert np.load(f"{CLIP}.mel.npy").shape[1] == 24
    with pytest.raises(DatasetError, match=r"made for another vocoder; .* --use_diff") as caught:
        cache.load_mels(CLIP)
    assert "\n" not in str(caught.value)
    # The features stage reads what the config says, and refuses another one.
    assert run(stage="features").fresh == 6
    with pytest.raises(ConfigError, match=r'--vocoder x, but configs/diffusion.yaml says "mine"'):
        run(stage="features", vocoder="x")
    # fmax null is half the rate, whichever way it is said.
    for fmax in (None, 22050, 22050.0):
        write_vocoder(data / "mine", num_mels=24, fmax=fmax)
        report = run(stage="features")
    assert report.fresh == 6


def test_a_vocoder_of_another_rate_is_refused(data: Path, encoder: Any) -> None:
    write_vocoder(data / "low", sampling_rate=22050, fmax=8000)
    before = sorted(data.rglob("*"))
    with pytest.raises(
        ConfigError, match=r"data.sampling_rate 44100 and sampling_rate 22050; use a vocoder of"
    ):
        run(vocoder="low")
    assert sorted(data.rglob("*")) == before


def test_the_vocoder_is_found_by_folder_and_by_weights(data: Path, encoder: Any) -> None:
    write_vocoder(data / "my voc")
    for path in ("my voc", "my voc/model", "my voc/model.ckpt"):
        run(vocoder=path)
        raw = yaml.safe_load(Path("configs/diffusion.yaml").read_text())
        assert raw["vocoder"]["ckpt"] == path
    # Stage config needs no vocoder, as it needs no encoder.
    assert run(vocoder="nowhere", stage="config").computed == 0


# ---- loading -------------------------------------------------------------------------------------


def original(clip: Path, mel: np.ndarray, key: float = 2.5) -> None:
    """Write what the original does: an object array of a mel and a Python float, no side-car."""
    FeaturePaths.of(clip).meta.unlink(missing_ok=True)
    pair = np.empty(2, dtype=object)
    pair[0], pair[1] = mel, key
    np.save(f"{clip}.mel.npy", mel)
    np.save(f"{clip}.aug_mel.npy", pair, allow_pickle=True)
    np.save(f"{clip}.aug_vol.npy", np.full(len(mel), 0.25, np.float32))


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_originals_files_are_read(tmp_path: Path, order: Any) -> None:
    """Its mel is a transposed view, which numpy pickles column by column."""
    rng, clip = np.random.default_rng(0), tmp_path / "a.wav"
    mel = np.asarray(rng.standard_normal((7, 20)).astype(np.float32), order=order)
    original(clip, mel)
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(f"{clip}.aug_mel.npy")
    loaded = FeatureCache(settings()).load_mels(clip)
    np.testing.assert_array_equal(loaded.aug_mel, mel)
    np.testing.assert_array_equal(loaded.mel, mel)
    assert loaded.key_shift == 2.5
    assert loaded.aug_volume.tolist() == [0.25] * 7


class Evil:
    def __reduce__(self) -> Any:
        return Path.write_text, (Path("harmed"), "x")


@pytest.mark.parametrize(
    "content",
    [
        [np.ones((7, 20), np.float32), Evil()],
        [Evil(), 2.5],
        [np.ones((7, 20), np.float64), 2.5],
        [np.ones((7, 20), np.float32), "2.5"],
        [np.ones(7, np.float32), 2.5],
        [np.ones((7, 20), ">f4"), 2.5],
        [np.ones((7, 20), np.float32), 2.5, 1.0],
        [2.5, np.ones((7, 20), np.float32)],
        [np.array([Evil()]), 2.5],
        [np.full((7, 20), np.nan, np.float32), 2.5],
    ],
)
def test_other_pickles_are_refused(place: Path, content: list[Any]) -> None:
    array = np.empty(len(content), dtype=object)
    array[:] = content
    np.save("a.npy", array, allow_pickle=True)
    with pytest.raises(DatasetError, match=r"a\.npy: not a readable feature file") as caught:
        read_augmented(Path("a.npy"))
    assert "\n" not in str(caught.value)
    assert not Path("harmed").exists()


def test_a_shape_that_lies_is_refused(place: Path) -> None:
    array = np.empty(2, dtype=object)
    array[:] = [np.ones((7, 20), np.float32), 2.5]
    np.save("a.npy", array, allow_pickle=True)
    body = Path("a.npy").read_bytes()
    damaged = body.replace(b"K\x07K\x14", b"K\x09K\x14")  # the pickled shape (7, 20)
    assert damaged != body
    Path("a.npy").write_bytes(damaged)
    with pytest.raises(DatasetError, match="not a readable feature file"):
        read_augmented(Path("a.npy"))


def test_mels_that_do_not_belong_are_refused(data: Path, encoder: Any) -> None:
    run()
    cache, meta = FeatureCache(settings()), FeaturePaths.of(CLIP).meta
    record = json.loads(meta.read_text())
    # Mels of before the recording was replaced: the other features were made anew, they were not.
    meta.write_text(json.dumps({key: v for key, v in record.items() if key not in MEL_PARTS}))
    with pytest.raises(DatasetError, match=r"00\.wav: its mels were made of something older"):
        cache.load_mels(CLIP)
    assert run().computed == 1
    mel, augmented = np.load(f"{CLIP}.mel.npy"), np.load(f"{CLIP}.aug_mel.npy")
    for name, array, text in (
        (".aug_mel.npy", augmented[:-1], "hold .* --use_diff"),
        (".aug_mel.npy", augmented[:, :-1], "the vocoder has 20 mel bands"),
        (".mel.npy", mel[:, :5], "the vocoder has 20 mel bands"),
        (".aug_vol.npy", np.ones(3, np.float32), "values for 43 frames"),
    ):
        kept = Path(f"{CLIP}{name}").read_bytes()
        np.save(f"{CLIP}{name}", array)
        with pytest.raises(DatasetError, match=text):
            cache.load_mels(CLIP)
        Path(f"{CLIP}{name}").write_bytes(kept)
    wav = CLIP.read_bytes()
    soundfile.write(CLIP, np.zeros(20000, np.float32), 44100)
    with pytest.raises(DatasetError, match=r"00\.wav has changed since its mels were made"):
        cache.load_mels(CLIP)
    CLIP.write_bytes(wav)
    Path(f"{CLIP}.aug_vol.npy").unlink()
    with pytest.raises(MissingFileError, match=r"aug_vol\.npy is not there; .* --use_diff"):
        cache.load_mels(CLIP)


def test_the_voice_trains_as_before(data: Path, encoder: Any) -> None:
    """Mels beside the clips change nothing for svc train."""
    run()
    cache = FeatureCache.from_config(load_config("configs/config.json"))
    assert cache.load(CLIP).volume is not None
