"""What goes into the pack of a data set, and when it is written again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from svc.audio.io import read_audio
from svc.audio.pitch import F0Track
from svc.dataset.clip_arrays import FULL_SCALE, smallest
from svc.dataset.feature_settings import FeatureSettings
from svc.dataset.features import FeatureCache, FeaturePaths
from svc.dataset.pack import NAME, Pack
from svc.dataset.packing import PackReport, pack_dataset
from svc.dataset.store import ClipStore, open_store, take
from svc.errors import DatasetError, OutputError

RATE, HOP = 8000, 64
SETTINGS = FeatureSettings("whisper-ppg-tiny", RATE, HOP)
ROOT = Path("data")


def write_clip(path: Path, frames: int, seed: int, *, subtype: str = "PCM_16") -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = 0.3 * rng.standard_normal(frames * HOP + 10).clip(-3, 3)
    soundfile.write(path, wav, RATE, subtype=subtype)
    FeatureCache(SETTINGS).save(
        path,
        units=torch.from_numpy(rng.standard_normal((4, frames // 2)).astype(np.float32)),
        f0=torch.from_numpy(np.stack([rng.uniform(80, 400, frames), np.ones(frames)])),
        volume=torch.rand(frames, generator=torch.Generator().manual_seed(seed)),
    )


@pytest.fixture
def clips(place: Path) -> list[Path]:
    """Two clips of alice and one of bob, in the working folder."""
    paths = [ROOT / "alice/0.wav", ROOT / "alice/1.wav", ROOT / "bob/0.wav"]
    for number, path in enumerate(paths):
        write_clip(path, 30 + number, number)
    return paths


def pack(clips: list[Path], **changes: Any) -> PackReport:
    return pack_dataset(ROOT, clips, replace(SETTINGS, **changes))


def counts(report: PackReport) -> tuple[int, int, int, bool]:
    return report.added, report.kept, report.removed, report.written


def touch(path: Path, seconds: float = 10.0) -> None:
    stat = path.stat()
    later = stat.st_mtime_ns + int(seconds * 1e9)
    os.utime(path, ns=(stat.st_atime_ns, later))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "PCM_U8"])
def test_the_sound_is_that_of_the_file(place: Path, subtype: str) -> None:
    path = ROOT / "alice/0.wav"
    write_clip(path, 30, 1, subtype=subtype)
    pack([path])
    samples = open_store(SETTINGS, ("units", "f0"), [path]).samples(path)
    wav, _ = read_audio(path)
    assert samples.values.dtype == (np.int16 if subtype in ("PCM_16", "PCM_U8") else np.float32)
    assert np.array_equal(take(samples.values).numpy().view(np.int32), wav.view(np.int32))
    assert samples.peak == float(np.abs(wav).max())
    assert samples.rate == RATE


def test_sixteen_bits_are_taken_only_where_nothing_is_lost() -> None:
    every = np.arange(-32768, 32768).astype(np.float32) / np.float32(32768)
    assert smallest(every).dtype == np.int16
    np.testing.assert_array_equal(smallest(every) * FULL_SCALE, every)
    for value in (
        1.0,
        -1.1,
        1e-9,
        -0.0,
        0.5 + 2**-17,
        np.nextafter(np.float32(0.25), np.float32(1)),
    ):
        changed = every.copy()
        changed[7] = value
        assert smallest(changed) is changed, value


def test_everything_a_clip_has_is_in_it(clips: list[Path]) -> None:
    report = pack(clips)
    assert counts(report) == (3, 0, 0, True)
    store, files = open_store(SETTINGS, ("units", "f0", "volume"), clips), ClipStore(SETTINGS)
    for path in clips:
        assert store.packed(path) is not None
        one, two = store.features(path), files.features(path)
        for name in ("units", "f0", "uv", "volume"):
            a, b = getattr(one, name), getattr(two, name)
            np.testing.assert_array_equal(a, b, err_msg=name)
            assert a.dtype == b.dtype == np.float32
        assert store.length(path) == files.length(path)
        track, known = store.f0(path), files.f0(path)
        assert isinstance(track, F0Track)
        np.testing.assert_array_equal(track.f0, known.f0)
        np.testing.assert_array_equal(track.uv, known.uv)
    found = Pack(report.path).clips["bob", "0.wav"]
    made = json.loads(FeaturePaths.of(clips[2]).meta.read_text())
    assert found.made == {part: made[part] for part in ("units", "f0", "volume")}


def test_nothing_is_written_where_nothing_has_changed(clips: list[Path]) -> None:
    pack(clips)
    before = (ROOT / NAME).stat()
    assert counts(pack(clips)) == (0, 3, 0, False)
    assert (ROOT / NAME).stat() == before
    # A feature file that is gone is in the pack.
    FeaturePaths.of(clips[0]).units.unlink()
    FeaturePaths.of(clips[1]).meta.unlink()
    assert counts(pack(clips)) == (0, 3, 0, False)


def test_only_what_has_changed_is_read(clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pack(clips)
    earlier = {
        key: FeatureCache(SETTINGS).load(clip).units for key, clip in zip("abc", clips, strict=True)
    }
    write_clip(clips[1], 40, 9)
    write_clip(ROOT / "bob/1.wav", 33, 5)
    read: list[Path] = []

    def spy(path: Path, **options: Any) -> Any:
        read.append(path)
        return read_audio(path, **options)

    monkeypatch.setattr("svc.dataset.packing.read_audio", spy)
    assert counts(pack([*clips, ROOT / "bob/1.wav"])) == (2, 2, 0, True)
    assert read == [clips[1], ROOT / "bob/1.wav"]
    store = open_store(SETTINGS, ("units", "f0"), clips)
    assert torch.equal(torch.from_numpy(store.features(clips[0]).units.copy()), earlier["a"])
    assert len(store.features(clips[1]).f0) == 40
    # A clip that is gone goes.
    assert counts(pack(clips[:2])) == (0, 2, 2, True)
    assert sorted(Pack(ROOT / NAME).clips) == [("alice", "0.wav"), ("alice", "1.wav")]


def test_the_earlier_pack_is_let_go_before_it_is_replaced(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some systems do not replace a file that is mapped."""
    pack(clips)
    touch(clips[0])
    closed, close = [], Pack.close

    def spy(self: Pack) -> None:
        close(self)
        closed.append((self.path, self._map.closed))

    monkeypatch.setattr(Pack, "close", spy)
    assert counts(pack(clips)) == (0, 3, 0, True)
    assert closed[0] == (ROOT / NAME, True)
    assert closed[1][0].name.startswith(".tmp-")  # read back before it took its place


def test_an_edited_pitch_is_a_change(clips: list[Path]) -> None:
    pack(clips)
    track = F0Track(np.full(30, 222, np.float32), np.ones(30, np.float32))
    FeatureCache(SETTINGS).save_edited_f0(clips[0], track, "curve.csv")
    assert counts(pack(clips)) == (1, 2, 0, True)
    store = open_store(SETTINGS, ("f0",), clips)
    assert set(store.f0(clips[0]).f0) == {222.0}
    found = Pack(ROOT / NAME).clips["alice", "0.wav"].made
    assert found is not None
    assert found["f0"]["edited"] is True


def test_new_times_are_noted_without_reading_everything_again(clips: list[Path]) -> None:
    pack(clips)
    for path in (clips[0], FeaturePaths.of(clips[1]).units):
        touch(path)
    assert counts(pack(clips)) == (0, 3, 0, True)
    state = Pack(ROOT / NAME).clips["alice", "0.wav"].files["wav"]
    assert state.mtime_ns == clips[0].stat().st_mtime_ns
    assert counts(pack(clips)) == (0, 3, 0, False)
    # The same size and other samples: it is another recording.
    wav = clips[0].read_bytes()
    clips[0].write_bytes(wav[:-4] + b"abcd")
    report = pack(clips)
    assert counts(report) == (0, 2, 1, True)
    (left,) = report.left_out
    assert left.path == clips[0]
    assert "has changed since its features were made" in left.reason


def test_what_cannot_be_packed_is_told(clips: list[Path]) -> None:
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: FeaturePaths.of(clips[0]).f0.unlink(), "its f0 are not there"),
        (lambda: FeaturePaths.of(clips[0]).units.write_bytes(b"x"), "damaged"),
        (lambda: np.save(FeaturePaths.of(clips[0]).f0, np.ones(3)), "f0 and uv are"),
    ]
    for spoil, message in cases:
        write_clip(clips[0], 30, 0)
        spoil()
        report = pack(clips)
        assert [item.path for item in report.left_out] == [clips[0]]
        assert message in report.left_out[0].reason
        assert len(Pack(report.path)) == 2
    with pytest.raises(DatasetError, match=r"nothing to put .*units were made with") as caught:
        pack(clips[1:], speech_encoder="vec768l12")
    assert "\n" not in str(caught.value)
    assert len(Pack(ROOT / NAME)) == 2
    for path in clips[:1]:
        write_clip(path, 30, 0)
        torch.save(torch.full((1, 4, 15), torch.nan), FeaturePaths.of(path).units)
    assert "values that are not numbers" in pack(clips).left_out[0].reason


def test_files_of_the_original_are_packed(clips: list[Path]) -> None:
    for path in clips:
        paths = FeaturePaths.of(path)
        paths.meta.unlink()
        pair = np.load(paths.f0).astype(np.float64)
        np.save(paths.f0, pair.astype(object), allow_pickle=True)
        paths.volume.unlink()
    assert counts(pack(clips)) == (3, 0, 0, True)
    store, files = open_store(SETTINGS, ("units", "f0"), clips), ClipStore(SETTINGS)
    one, two = store.features(clips[0]), files.features(clips[0])
    np.testing.assert_array_equal(one.f0, two.f0)
    assert one.volume is two.volume is None
    assert Pack(ROOT / NAME).clips["alice", "0.wav"].made is None
    # A clip that lacks what is wanted is read from its files.
    assert open_store(SETTINGS, ("units", "f0", "volume"), clips).packed(clips[0]) is None


def test_a_damaged_pack_is_written_anew(clips: list[Path]) -> None:
    pack(clips)
    (ROOT / NAME).write_bytes(b"not a pack")
    with pytest.raises(DatasetError, match="is not a pack"):
        open_store(SETTINGS, ("f0",), clips)
    assert counts(pack(clips)) == (3, 0, 0, True)


def test_a_disk_that_is_too_small_is_found_before(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(clips)
    before = (ROOT / NAME).read_bytes()
    size = len(before)
    needs: list[int] = []

    def refuse(path: Path, need: int) -> None:
        needs.append(need)
        raise OutputError("the disk is full")

    monkeypatch.setattr("svc.dataset.pack_writer.check_space", refuse)
    touch(clips[0])
    with pytest.raises(OutputError):
        pack(clips)
    (ROOT / NAME).unlink()
    with pytest.raises(OutputError):
        pack(clips)
    # The estimate is enough, whether clips are copied or read, and not much more.
    assert all(size <= need <= 2 * size for need in needs), (needs, size)
