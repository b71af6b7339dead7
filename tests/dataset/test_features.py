"""The feature files: names, freshness, and the originals' files."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.config import find_template, load_config
from svc.dataset.features import FeatureCache, FeaturePaths, FeatureSettings
from svc.dataset.tensor_files import load_tensor
from svc.errors import DatasetError, MissingFileError

SETTINGS = FeatureSettings("vec768l12", 44100, 512)
N_FRAMES = 20


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "alice" / "a.wav"
    path.parent.mkdir()
    path.write_bytes(b"RIFF" + bytes(1000))
    return path


def parts(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    f0 = torch.rand(N_FRAMES, generator=draw) * 100 + 200
    return {
        "units": torch.randn(768, 12, generator=draw),
        "f0": torch.stack([f0, torch.ones(N_FRAMES)]),
        "volume": torch.rand(N_FRAMES, generator=draw),
        "spec": torch.rand(1025, N_FRAMES, generator=draw),
    }


def test_names_are_the_originals() -> None:
    found = FeaturePaths.of(Path("d/x.wav/a.b.wav"))
    assert found.units == Path("d/x.wav/a.b.wav.soft.pt")
    assert found.f0 == Path("d/x.wav/a.b.wav.f0.npy")
    assert found.volume == Path("d/x.wav/a.b.wav.vol.npy")
    assert found.spec == Path("d/x.wav/a.b.spec.pt")  # only the suffix: the folder stays (D5)
    # Two files that a case-sensitive disk can hold side by side share nothing.
    upper, lower = FeaturePaths.of(Path("a.WAV")), FeaturePaths.of(Path("a.wav"))
    assert not set(vars(upper).values()) & set(vars(lower).values())


def test_round_trip(wav: Path) -> None:
    cache, made = FeatureCache(SETTINGS), parts()
    cache.save(wav, **made)
    loaded = cache.load(wav, spec=True)
    assert torch.equal(loaded.units, made["units"])
    assert torch.equal(loaded.f0, made["f0"][0])
    assert torch.equal(loaded.uv, made["f0"][1])
    assert loaded.volume is not None
    assert torch.equal(loaded.volume, made["volume"])
    assert loaded.spec is not None
    assert torch.equal(loaded.spec, made["spec"])
    assert cache.is_fresh(wav, ("units", "f0", "volume", "spec"))
    assert all(
        tensor.dtype == torch.float32 and tensor.is_contiguous()
        for tensor in (loaded.units, loaded.f0, loaded.uv, loaded.volume, loaded.spec)
    )


def test_files_are_what_the_original_reads(wav: Path) -> None:
    FeatureCache(SETTINGS).save(wav, **parts())
    units = torch.load(f"{wav}.soft.pt", weights_only=True)
    assert units.shape == (1, 768, 12)
    assert FeaturePaths.of(wav).units.stat().st_size < 768 * 12 * 4 + 4000  # no surplus storage
    f0, uv = np.load(f"{wav}.f0.npy", allow_pickle=True)
    assert f0.shape == uv.shape == (N_FRAMES,)
    assert np.load(f"{wav}.f0.npy", allow_pickle=False).dtype == np.float32
    assert np.load(f"{wav}.vol.npy").shape == (N_FRAMES,)
    assert torch.load(wav.with_suffix(".spec.pt"), weights_only=True).shape == (1025, N_FRAMES)


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({}, set()),
        ({"speech_encoder": "vec256l9"}, {"units"}),
        ({"speech_encoder": "vec768l12+whisper-ppg-tiny"}, {"units"}),
        ({"encoder_file": "abc", "own_weights": True}, {"units"}),
        ({"encoder_precision": "bf16"}, {"units"}),
        ({"f0_predictor": "dio"}, {"f0"}),
        ({"f0_min": 60.0}, {"f0"}),
        ({"f0_max": 1000.0}, {"f0"}),
        ({"filter_length": 1024}, {"spec"}),
        ({"win_length": 1024}, {"spec"}),
        ({"hop_length": 256}, {"f0", "volume", "spec"}),
        ({"sampling_rate": 48000}, {"f0", "volume", "spec"}),
    ],
)
def test_a_setting_makes_only_its_parts_stale(
    wav: Path, change: dict[str, Any], stale: set[str]
) -> None:
    FeatureCache(SETTINGS).save(wav, **parts())
    changed = FeatureCache(replace(SETTINGS, **change))
    assert changed.stale(wav, ("units", "f0", "volume", "spec")) == stale


def test_units_go_stale_with_the_weights_of_their_encoder(wav: Path) -> None:
    made = replace(SETTINGS, encoder_file="1" * 32)
    FeatureCache(made).save(wav, **parts())
    for own in (False, True):  # the same weights under pretrain/ or elsewhere
        assert FeatureCache(replace(made, own_weights=own)).is_fresh(wav)
        other = replace(made, own_weights=own, encoder_file="2" * 32)
        assert FeatureCache(other).stale(wav) == {"units"}


def test_side_cars_without_a_hash_count_for_the_default_weights_only(wav: Path) -> None:
    """Those of the first release: null stands for the weights at their default place."""
    FeatureCache(SETTINGS).save(wav, **parts())
    hashed = replace(SETTINGS, encoder_file="1" * 32)
    assert FeatureCache(hashed).is_fresh(wav)
    assert FeatureCache(replace(hashed, own_weights=True)).stale(wav) == {"units"}
    assert FeatureCache(replace(hashed, encoder_precision="fp16")).stale(wav) == {"units"}
    # Saving another part claims nothing about units that were not made again.
    FeatureCache(replace(hashed, f0_predictor="dio")).save(wav, f0=parts(1)["f0"])
    meta = json.loads(FeaturePaths.of(wav).meta.read_text(encoding="utf-8"))
    assert meta["units"]["encoder_file"] is None
    assert FeatureCache(replace(hashed, f0_predictor="dio", own_weights=True)).stale(wav) == {
        "units"
    }


def test_saving_one_part_keeps_the_others_that_are_fresh(wav: Path) -> None:
    FeatureCache(SETTINGS).save(wav, **parts())
    other = FeatureCache(replace(SETTINGS, f0_predictor="dio", filter_length=1024))
    other.save(wav, f0=parts(1)["f0"])
    assert other.stale(wav, ("units", "f0", "volume", "spec")) == {"spec"}
    assert torch.equal(other.load(wav).f0, parts(1)["f0"][0])
    assert torch.equal(other.load(wav).units, parts()["units"])


def test_the_recording_decides_not_its_date(wav: Path) -> None:
    cache = FeatureCache(SETTINGS)
    cache.save(wav, **parts())
    os.utime(wav, (1, 1))  # a copied data set
    assert cache.is_fresh(wav)
    cache.load(wav)
    content = bytearray(wav.read_bytes())
    content[-1] ^= 1
    wav.write_bytes(content)  # same size, other content
    assert cache.stale(wav) == {"units", "f0", "volume"}
    with pytest.raises(DatasetError, match="has changed since"):
        cache.load(wav)


def test_absent_files_and_a_broken_side_car_are_stale(wav: Path) -> None:
    cache = FeatureCache(SETTINGS)
    assert cache.stale(wav) == {"units", "f0", "volume"}
    cache.save(wav, **parts())
    FeaturePaths.of(wav).volume.unlink()
    assert cache.stale(wav) == {"volume"}
    meta = FeaturePaths.of(wav).meta
    for text in ("", "{", "[]", '{"version": 0}', '{"version": 1}', '{"version": 1, "wav": 3}'):
        meta.write_text(text)
        assert cache.stale(wav) == {"units", "f0", "volume"}, text


def test_a_crash_while_saving_leaves_nothing_that_looks_whole(
    wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(SETTINGS)
    cache.save(wav, **parts())
    with monkeypatch.context() as patch:
        patch.setattr(
            "svc.dataset.features._save_array", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            cache.save(wav, **parts(1))
    assert cache.stale(wav) == {"units", "f0", "volume"}
    assert not [path for path in wav.parent.iterdir() if path.name.startswith(".tmp")]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_never_saved(wav: Path, bad: float) -> None:
    broken = parts()
    broken["f0"][0, 3] = bad
    with pytest.raises(DatasetError, match="f0 came out empty or not finite"):
        FeatureCache(SETTINGS).save(wav, **broken)
    with pytest.raises(DatasetError, match="units came out empty"):
        FeatureCache(SETTINGS).save(wav, units=torch.zeros(768, 0))
    assert sorted(path.name for path in wav.parent.iterdir()) == ["a.wav"]


def write_originals_files(wav: Path) -> dict[str, torch.Tensor]:
    """Write what so-vits-svc 4.1 writes (spec_core 6.4), with its own naming rule."""
    made = parts()
    torch.save(made["units"][None], f"{wav}.soft.pt")
    pair = np.asanyarray((made["f0"][0].double().numpy(), made["f0"][1].double().numpy()), object)
    np.save(f"{wav}.f0.npy", pair)
    np.save(f"{wav}.vol.npy", made["volume"].numpy())
    spec = Path(str(wav).replace(".wav", ".spec.pt"))
    spec.parent.mkdir(parents=True, exist_ok=True)
    torch.save(made["spec"], spec)
    return made


@pytest.mark.parametrize("name", ["alice/a.wav", "alice/my.wavfile.wav", "x.wav/a.wav"])
def test_the_originals_files_are_loaded(tmp_path: Path, name: str) -> None:
    wav = tmp_path / name
    wav.parent.mkdir(parents=True, exist_ok=True)
    wav.write_bytes(b"RIFF")
    made = write_originals_files(wav)
    cache = FeatureCache(SETTINGS)
    loaded = cache.load(wav, spec=True)
    assert torch.equal(loaded.units, made["units"])
    assert torch.equal(loaded.f0, made["f0"][0])
    assert loaded.volume is not None
    assert loaded.spec is not None
    assert torch.equal(loaded.spec, made["spec"])
    # Nothing says what made them, so preprocessing makes them again.
    assert cache.stale(wav) == {"units", "f0", "volume"}


def test_volume_and_spec_may_be_absent(wav: Path) -> None:
    write_originals_files(wav)
    FeaturePaths.of(wav).volume.unlink()
    FeaturePaths.of(wav).spec.unlink()
    loaded = FeatureCache(SETTINGS).load(wav, spec=True)
    assert loaded.volume is None
    assert loaded.spec is None


def test_features_of_another_encoder_or_hop_are_refused(wav: Path) -> None:
    FeatureCache(SETTINGS).save(wav, **parts())
    with pytest.raises(DatasetError, match='made with "vec768l12", the config says "vec256l9"'):
        FeatureCache(replace(SETTINGS, speech_encoder="vec256l9")).load(wav)
    with pytest.raises(DatasetError, match="hop 512"):
        FeatureCache(replace(SETTINGS, hop_length=256)).load(wav)
    # Which predictor made the F0 is nobody's business at training time.
    FeatureCache(replace(SETTINGS, f0_predictor="dio")).load(wav)
    # A spectrogram of another size is not taken.
    assert FeatureCache(replace(SETTINGS, filter_length=1024)).load(wav, spec=True).spec is None


def test_absent_features_say_what_to_run(wav: Path) -> None:
    with pytest.raises(MissingFileError, match=r"a\.wav\.soft\.pt is not there; run .*preprocess"):
        FeatureCache(SETTINGS).load(wav)
    FeatureCache(SETTINGS).save(wav, **parts())
    wav.unlink()
    with pytest.raises(MissingFileError, match=r"a\.wav is not there"):
        FeatureCache(SETTINGS).load(wav)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_hostile_units_are_refused(wav: Path, tmp_path: Path) -> None:
    write_originals_files(wav)
    trap = tmp_path / "pwned"
    target = Path(f"{wav}.soft.pt")
    for writer in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))):
        writer(Hostile(trap), target)
        with pytest.raises(DatasetError, match="refused"):
            FeatureCache(SETTINGS).load(wav)
        assert not trap.exists()


def test_damaged_or_foreign_files_are_named(wav: Path) -> None:
    write_originals_files(wav)
    target = Path(f"{wav}.soft.pt")
    whole = target.read_bytes()
    for content in (b"", b"x", whole[:100], whole[: len(whole) // 2]):
        target.write_bytes(content)
        with pytest.raises(DatasetError, match=r"soft\.pt: damaged"):
            FeatureCache(SETTINGS).load(wav)
    torch.save({"a": torch.ones(2)}, target)
    with pytest.raises(DatasetError, match="only plain tensors"):
        load_tensor(target)
    torch.save(torch.ones(3), target)
    with pytest.raises(DatasetError, match=r"found \(3,\)"):
        FeatureCache(SETTINGS).load(wav)
    target.write_bytes(whole)
    np.save(f"{wav}.f0.npy", np.ones(5, np.float32))
    with pytest.raises(DatasetError, match=r"f0 and uv are \(2, frames\)"):
        FeatureCache(SETTINGS).load(wav)
    np.save(f"{wav}.f0.npy", np.ones((2, 5), np.float32))
    with pytest.raises(DatasetError, match="f0 has 5 frames"):
        FeatureCache(SETTINGS).load(wav)


def test_a_cache_from_a_config() -> None:
    config = load_config(find_template("template.json"))
    assert FeatureCache.from_config(config).settings == FeatureSettings("vec768l12", 44100, 512)


def test_the_side_car_is_plain_json(wav: Path) -> None:
    FeatureCache(SETTINGS).save(wav, **parts())
    meta = json.loads(FeaturePaths.of(wav).meta.read_text(encoding="utf-8"))
    assert meta["units"] == {"speech_encoder": "vec768l12", "encoder_file": None}
    assert meta["f0"]["f0_predictor"] == "fcpe"
    half = replace(SETTINGS, encoder_file="1" * 32, encoder_precision="fp16")
    FeatureCache(half).save(wav, **parts())
    meta = json.loads(FeaturePaths.of(wav).meta.read_text(encoding="utf-8"))
    assert meta["units"] == {
        "speech_encoder": "vec768l12",
        "encoder_file": "1" * 32,
        "encoder_precision": "fp16",
    }
    assert meta["wav"]["size"] == 1004
