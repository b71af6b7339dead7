"""Reference arrays and sounds of the audio tests.

`tests/data/audio/golden.npz` holds parts of the reference arrays (outputs of so-vits-svc 4.1 run
on a CPU: spec_core 12, spec_encoders 13, spec_f0 12, spec_vocoder 8), so that parity is proved in
every checkout; large arrays are thinned as their names say.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    path = Path(__file__).parents[1] / "data" / "audio" / "golden.npz"
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def hash_noise() -> Callable[..., torch.Tensor]:
    """Inputs of the reference arrays: ``hash_noise(stream, n, scale)``, rule in spec_core 12."""

    def make(stream: int, n: int, scale: float) -> torch.Tensor:
        index = np.arange(n, dtype=np.float64)
        s = np.sin(12.9898 * index + 78.233 * stream + 1) * 43758.5453
        return torch.from_numpy((scale * (2 * (s - np.floor(s)) - 1)).astype(np.float32))

    return make


@pytest.fixture
def phrases() -> Callable[..., np.ndarray]:
    """Return ``phrases(seconds, gaps, sr)``: a 220 Hz tone that is silent inside each gap (s)."""

    def make(
        seconds: float, gaps: list[tuple[float, float]], sr: int = 44100, level: float = 0.5
    ) -> np.ndarray:
        time = np.arange(round(seconds * sr)) / sr
        wav = level * np.sin(2 * np.pi * 220 * time)
        for begin, end in gaps:
            wav[(time > begin) & (time < end)] = 0.0
        return wav.astype(np.float32)

    return make


@pytest.fixture
def stand_in(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put stand-ins for ffmpeg and ffprobe on PATH, and nothing else.

    Returns a function ``write(path, wav, sr, **facts)`` that makes a file only they can read; wav is
    (T,) or (C, T). Facts: tags, code and says (how ffmpeg ends), gives (bytes it decodes), timed
    (whether ffprobe knows the stream's length), container (what ffprobe says of it: MP4 of one stream
    unless told otherwise), warns (what it says on stderr), claims (another sr or number of channels).
    """
    if sys.platform == "win32":
        pytest.skip("the stand-ins are scripts")
    folder = tmp_path_factory.mktemp("bin")
    text = Path(__file__).with_name("stand_in_ffmpeg.py").read_text(encoding="utf-8")
    for name in ("ffmpeg", "ffprobe"):
        (folder / name).write_text(f"#!{sys.executable} -S\n{text}", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))

    def write(path: Path, wav: np.ndarray, sr: int, **facts: Any) -> None:
        channels = 1 if wav.ndim == 1 else wav.shape[0]
        head = json.dumps({"sr": sr, "channels": channels, **facts}).encode()
        path.write_bytes(b"FAKE " + head + b"\n" + wav.T.astype("<f4").tobytes())

    return write


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which no file grows beyond 20 kB: to the writer a disk that is full. Open it
    in the test alone: the file that the test's own dot is written to may be larger.
    """
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited() -> Iterator[None]:
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, handler)

    return limited
