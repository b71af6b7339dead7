"""The file itself: what is written is what is read, and what is not whole is refused."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.dataset.pack import ALIGNMENT, PREAMBLE, FileState, Pack, hash_of
from svc.dataset.pack_writer import NewClip, PackWriter, write_pack
from svc.errors import DatasetError, OutputError

MADE = {"units": {"speech_encoder": "vec768l12"}, "f0": {"f0_predictor": "fcpe"}}


def new_clip(name: str, rng: np.random.Generator, **changes: Any) -> NewClip:
    values = {
        "key": ("alice", name),
        "rate": 44100,
        "peak": 0.1 + 0.2,  # no short decimal
        "files": {"wav": FileState(10, 1_700_000_000_123_456_789), "units": FileState(3, 4)},
        "made": MADE,
        "arrays": {
            "wav": rng.integers(-32768, 32768, 1001).astype(np.int16),
            "units": rng.standard_normal((11, 5)).astype(np.float32),
            "f0": rng.standard_normal((2, 7)).astype(np.float32),
        },
    }
    return NewClip(**{**values, **changes})


def write(path: Path, clips: list[NewClip]) -> Pack:
    with write_pack(path, 1000) as writer:
        for clip in clips:
            writer.add(clip)
    return Pack(path)


def test_what_is_written_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    wav = rng.standard_normal(77).astype(np.float32)
    clips = [
        new_clip("0.wav", rng),
        new_clip("歌 |\udcff.wav", rng, made=None),
        new_clip("2.wav", rng, arrays={"wav": wav, "mel": np.zeros((0, 4), np.float32)}),
    ]
    pack = write(tmp_path / "features.pack", clips)
    assert len(pack) == 3
    assert pack.size == (tmp_path / "features.pack").stat().st_size
    for clip in clips:
        found = pack.get(Path("anywhere") / clip.key[0] / clip.key[1])
        assert found is not None
        assert (found.key, found.rate, found.peak) == (clip.key, clip.rate, clip.peak)
        assert (found.files, found.made) == (clip.files, clip.made)
        assert found.n_samples == len(clip.arrays["wav"])
        assert found.arrays.keys() == clip.arrays.keys()
        for part, array in clip.arrays.items():
            read = pack.array(found, part)
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)
            assert not read.flags.writeable
            assert found.arrays[part].offset % ALIGNMENT == 0
            assert read.ctypes.data % ALIGNMENT == 0
    assert pack.get(Path("bob/0.wav")) is None
    found = pack.clips["alice", "2.wav"]
    assert found.has(("wav", "mel"))
    assert not found.has(("wav", "units"))
    # Settings that clips share stand in it once.
    assert (tmp_path / "features.pack").read_bytes().count(b"vec768l12") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["features.pack"]


def test_the_same_clips_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        rng = np.random.default_rng(3)
        write(tmp_path / name, [new_clip("0.wav", rng), new_clip("1.wav", rng)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_it_goes_to_another_process_as_a_name(tmp_path: Path, rng: np.random.Generator) -> None:
    clips = [new_clip(f"{number}.wav", rng) for number in range(200)]
    pack = write(tmp_path / "features.pack", clips)
    sent = pickle.dumps(pack)
    assert len(sent) < 500
    again = pickle.loads(sent)
    clip = again.clips["alice", "7.wav"]
    np.testing.assert_array_equal(again.array(clip, "units"), clips[7].arrays["units"])
    write(tmp_path / "features.pack", clips[1:])
    with pytest.raises(DatasetError, match="was written anew meanwhile; run the command again"):
        pickle.loads(sent)
    # Who has it open goes on with what it was.
    np.testing.assert_array_equal(pack.array(clip, "units"), clips[7].arrays["units"])


def index_changed(content: bytes, change: dict[str, Any]) -> bytes:
    """Give the first clip's wav another place, with a hash that is right."""
    magic, version, zero, offset, length, _ = PREAMBLE.unpack(content[: PREAMBLE.size])
    index = json.loads(content[offset : offset + length])
    index["clips"][0].update(change)
    text = json.dumps(index).encode()
    head = PREAMBLE.pack(magic, version, zero, offset, len(text), hash_of(text))
    return head + content[PREAMBLE.size : offset] + text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda body: b"", "damaged: it is empty"),
        (lambda body: b"RIFF" + body[4:], "is not a pack of features"),
        (lambda body: body[:20], "is not a pack of features"),
        (lambda body: body[:8] + b"\x02" + body[9:], "of version 2, this program reads version 1"),
        (lambda body: body[:-1], "damaged: it is cut off"),
        (lambda body: body + b"x", "damaged: it is cut off"),
        (lambda body: body[:-5] + b"[" + body[-4:], "damaged: it is cut off, or its index was"),
        (lambda body: index_changed(body, {"made": {"units": 99}}), "its index makes no sense"),
        (lambda body: index_changed(body, {"arrays": {}}), "its index makes no sense"),
        (lambda body: index_changed(body, {"arrays": {"wav": ["<f8", 64, [1]]}}), "makes no sense"),
        (
            lambda body: index_changed(body, {"arrays": {"wav": ["<i2", 64, [1 << 40]]}}),
            r"the place of the wav of 0\.wav is not in it",
        ),
        (
            lambda body: index_changed(body, {"arrays": {"wav": ["<i2", -64, [1]]}}),
            r"the place of the wav of 0\.wav is not in it",
        ),
        (
            lambda body: index_changed(body, {"arrays": {"wav": ["<i2", 64, [1, 1]]}}),
            r"the recording of 0\.wav is not one row of samples",
        ),
    ],
)
def test_what_is_not_whole_is_refused(
    tmp_path: Path, rng: np.random.Generator, spoil: Any, message: str
) -> None:
    path = tmp_path / "features.pack"
    write(path, [new_clip("0.wav", rng)]).close()
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DatasetError, match=message) as caught:
        Pack(path)
    assert "\n" not in str(caught.value)
    assert "svc preprocess --stage pack" in str(caught.value)


def test_a_write_that_fails_leaves_the_earlier_one(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "features.pack"
    write(path, [new_clip("0.wav", rng)])
    before = path.read_bytes()

    def full(self: PackWriter, clip: NewClip) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PackWriter, "add", full)
        with pytest.raises(OutputError, match="no space left on the disk"):
            write(path, [new_clip("1.wav", rng)])
    with pytest.raises(OutputError, match=r"features\.pack: it needs .* MB and the disk has"):
        write_pack(path, 1 << 60).__enter__()
    # What cannot be read back does not take its place either.
    monkeypatch.setattr(PackWriter, "finish", lambda self: None)
    with pytest.raises(DatasetError, match="is not a pack"):
        write(path, [new_clip("1.wav", rng)])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["features.pack"]


def test_the_preamble_is_there_before_the_first_array(rng: np.random.Generator) -> None:
    stream = io.BytesIO()
    writer = PackWriter(stream)
    writer.add(new_clip("0.wav", rng))
    writer.finish()
    assert stream.getvalue()[:12] == b"\x93SVCPACK\x01\x00\x00\x00"
