"""The ffmpeg on PATH, where there is one: what the stand-in of the other tests pretends."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import audio_info, read_audio, read_blocks, read_tags, write_audio
from svc.errors import AudioError

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not on PATH")

SR = 48000


@pytest.fixture
def sweep() -> np.ndarray:
    """A rising tone on the left, half as loud on the right; with nothing at its start."""
    time = np.arange(2 * SR) / SR
    tone = 0.5 * np.sin(2 * np.pi * (200 * time + 300 * time**2))
    tone[:2000] = 0
    return np.stack((tone, 0.5 * tone)).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "bit_depth", "limit"),
    [
        (".m4a", None, 0.02),
        (".mp4", None, 0.02),
        (".webm", None, 0.05),
        (".m4a", "16", 2**-16),
        (".mp4", "24", 2**-24),
    ],
)
def test_there_and_back(
    tmp_path: Path, sweep: np.ndarray, suffix: str, bit_depth: str | None, limit: float
) -> None:
    tags = {"title": "-Tï歌 = x", "artist": 'A;B\\c "q"', "tracknumber": "3/9", "software": "svc 1"}
    path = tmp_path / f"-a|b 名{suffix}"
    write_audio(path, sweep, SR, bit_depth=bit_depth, tags=tags)
    first = path.read_bytes()
    back, sr = read_audio(path, mono=False)
    assert sr == SR
    assert 0 <= back.shape[1] - sweep.shape[1] <= 1024  # an AAC frame may be filled up
    inside = slice(4000, 90_000)
    np.testing.assert_allclose(back[:, inside], sweep[:, inside], atol=limit)
    assert audio_info(path).n_samples == back.shape[1]
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 0.3))), read_audio(path)[0])
    if shutil.which("ffprobe"):
        found = read_tags(path)
        if suffix == ".webm":  # ffmpeg writes its own name there
            found["software"] = "svc 1"
        assert found == tags
    write_audio(path, sweep, SR, bit_depth=bit_depth, tags=tags)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{secret}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{secret}'\n",
        "v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
    ],
    ids=["hls", "hls over http", "concat", "sdp"],
)
def test_lists_of_other_files_are_not_followed(tmp_path: Path, content: str) -> None:
    write_audio(tmp_path / "secret.wav", np.full(SR, 0.5, dtype=np.float32), SR)
    path = tmp_path / "song.m4a"
    path.write_text(content.format(secret=tmp_path / "secret.wav"), encoding="utf-8")
    with pytest.raises(AudioError, match="no readable audio file"):
        read_audio(path)


def test_a_broken_file(tmp_path: Path, sweep: np.ndarray) -> None:
    write_audio(tmp_path / "a.m4a", np.tile(sweep, 4), SR)
    content = (tmp_path / "a.m4a").read_bytes()
    (tmp_path / "b.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"b\.m4a is "):
        read_audio(tmp_path / "b.m4a")


def test_the_sound_of_a_film(tmp_path: Path, sweep: np.ndarray) -> None:
    write_audio(tmp_path / "a.wav", sweep, SR)
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=c=red:s=64x64:d=2"]
    command += ["-i", str(tmp_path / "a.wav"), "-c:v", "mpeg4", "-c:a", "pcm_s16le"]
    subprocess.run([*command, str(tmp_path / "film.mkv")], check=True, capture_output=True)
    (tmp_path / "film.mkv").rename(tmp_path / "film.mka")
    back, _ = read_audio(tmp_path / "film.mka", mono=False)
    np.testing.assert_allclose(back[:, : sweep.shape[1]], sweep, atol=2**-15)
