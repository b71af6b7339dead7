from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.audio.io import write_audio
from svc.audio.pitch import F0Track
from svc.checkpoint import save_checkpoint
from svc.cli.main import main
from svc.config import SvcConfig, parse_config, save_config
from svc.conversion.converter import Converter
from svc.conversion.voice import Voice
from svc.conversion.windows import Window
from svc.f0.settings import F0Settings
from svc.synthesizer import Synthesizer

SR = 44100
WIDTH = 8  # of the stub encoder's units


@dataclass
class Result:
    """What a run of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error; anything more would be a failure of its own."""
        lines = [line for line in self.err.splitlines() if line.startswith("svc: error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def small_config(**model: Any) -> SvcConfig:
    """A net that renders a second of audio in some hundredths of a second."""
    raw = {
        "train": {"segment_size": 4096},
        "data": {
            "sampling_rate": 44100,
            "filter_length": 2048,
            "hop_length": 512,
            "win_length": 2048,
            "unit_interpolate_mode": "nearest",
        },
        "model": {
            "inter_channels": 8,
            "hidden_channels": 8,
            "filter_channels": 8,
            "n_heads": 2,
            "n_layers": 1,
            "kernel_size": 3,
            "p_dropout": 0.1,
            "resblock": "1",
            "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1, 3, 5]],
            "upsample_rates": [8, 8, 2, 2, 2],
            "upsample_initial_channel": 32,
            "upsample_kernel_sizes": [16, 16, 4, 4, 4],
            "gin_channels": 4,
            "ssl_dim": WIDTH,
            "n_speakers": 2,
            "n_flow_layer": 1,
            "speech_encoder": "whisper-ppg-tiny",
            **model,
        },
        "spk": {"alice": 0, "bob": 1},
    }
    return parse_config(raw, where="test")


class StubEncoder:
    """Units that follow the loudness: 50 frames per second."""

    device = torch.device("cpu")
    usual_seconds = 30.0

    def __init__(self, name: str = "stub", dim: int = WIDTH) -> None:
        self.name, self.dim = name, dim

    def encode(self, wav16k: Tensor) -> Tensor:
        frames = torch.nn.functional.pad(wav16k, (0, -wav16k.shape[0] % 320)).reshape(-1, 320)
        loud = frames.square().mean(1).sqrt()
        return torch.stack([torch.cos(k * 5 * loud) for k in range(self.dim)])[None]

    def encode_batch(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        return [self.encode(wav) for wav in wavs]


class StubPredictor:
    """220 Hz where there is sound, unvoiced elsewhere."""

    name = "stub"
    settings = F0Settings()

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, wav: np.ndarray) -> F0Track:
        self.lengths.append(len(wav))
        n_frames = len(wav) // 512
        rms = np.sqrt(np.square(wav[: n_frames * 512].reshape(n_frames, 512)).mean(1))
        uv = (rms > 1e-3).astype(np.float32)
        return F0Track(220.0 * uv, uv)

    def track_batch(self, wavs: Sequence[np.ndarray]) -> list[F0Track]:
        return [self(wav) for wav in wavs]


@pytest.fixture
def make_converter() -> Callable[..., Converter]:
    def make(*, compat: bool = False, **model: Any) -> Converter:
        config = small_config(**model)
        torch.manual_seed(1)
        synthesizer = Synthesizer.from_config(config).eval()
        with torch.no_grad():  # an untrained net whispers: make every fault audible
            synthesizer.dec.conv_post.weight_g.mul_(30.0)
        return Converter(
            Voice(
                synthesizer,
                StubEncoder(),
                StubPredictor(),
                speakers=config.spk,
                unit_interpolate_mode="nearest",
                compat=compat,
            )
        )

    make.config = small_config  # type: ignore[attr-defined]
    return make


class EchoVoice:
    """Renders what it is given, changed by `change(window, call index)`."""

    hop_length = 512
    usual_seconds = 30.0
    compat = False
    device = torch.device("cpu")
    speakers = {"alice": 0, "bob": 1}  # noqa: RUF012
    ranges = {}  # noqa: RUF012
    where = "cpu"
    f0_predictor: Any = StubPredictor()
    batch_frames = 0

    def __init__(
        self,
        change: Callable[[np.ndarray, int], np.ndarray] | None = None,
        *,
        sampling_rate: int = 44100,
        compat: bool = False,
    ) -> None:
        self.change = change or (lambda window, call: window)
        self.sampling_rate = sampling_rate
        self.compat = compat
        self.windows: list[int] = []
        self.tracks: list[F0Track | None] = []

    def check_options(self, options: object, singers: object) -> None:
        """Serves all."""

    def give_back(self) -> None:
        """Holds nothing."""

    def render(
        self, window: np.ndarray, speaker: object, options: object, track: F0Track | None = None
    ) -> np.ndarray:
        self.windows.append(len(window))
        self.tracks.append(track)
        whole = len(window) // 512 * 512
        return self.change(window, len(self.windows))[:whole].astype(np.float32)

    def render_many(
        self, windows: Sequence[Window], speaker: int, options: object
    ) -> list[np.ndarray]:
        who = [speaker if window.weights is None else window.weights for window in windows]
        return [
            self.render(window.wav, singer, options, window.track)
            for window, singer in zip(windows, who, strict=True)
        ]


@pytest.fixture
def echo() -> type[EchoVoice]:
    return EchoVoice


@pytest.fixture
def song() -> Callable[..., np.ndarray]:
    """Phrases of tone: a function ``song([(seconds, gain), ...], sr)``; gain 0 is a pause."""

    def make(phrases: list[tuple[float, float]], sr: int = 44100) -> np.ndarray:
        parts = [
            gain * np.sin(2 * np.pi * 220 * np.arange(round(seconds * sr)) / sr)
            for seconds, gain in phrases
        ]
        return np.concatenate(parts).astype(np.float32)

    return make


# ------------------------------------------------------------------------------ the command line


def whisper_config(**model: Any) -> SvcConfig:
    """A voice of one speaker on the bundled encoder."""
    config = small_config(**{"ssl_dim": 384, "n_speakers": 1, **model})
    return dataclasses.replace(config, spk={"alice": 0})


@pytest.fixture
def make_config() -> Callable[..., SvcConfig]:
    return whisper_config


def write_voice(folder: Path, config: SvcConfig, step: int = 100, *, half: bool = False) -> Path:
    torch.manual_seed(step)
    net = Synthesizer.from_config(config)
    with torch.no_grad():  # an untrained net whispers
        net.dec.conv_post.weight_g.mul_(30.0)
    state = {name: x.half() if half else x for name, x in net.state_dict().items()}
    path = folder / f"G_{step}.pth"
    save_checkpoint(
        {"model": state, "iteration": 1, "optimizer": None, "learning_rate": 1e-4}, path
    )
    save_config(config, folder / "config.json")
    return path


@pytest.fixture
def save_voice() -> Callable[..., Path]:
    return write_voice


@pytest.fixture(scope="session")
def voice_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voice")
    write_voice(folder, whisper_config())
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voice_folder: Path) -> Path:
    """An empty working folder with a trained voice and one song."""
    monkeypatch.chdir(tmp_path)
    Path("logs").mkdir()
    Path("logs/44k").symlink_to(voice_folder, target_is_directory=True)
    tone = 0.5 * np.sin(2 * np.pi * 220 * np.arange(SR // 2) / SR)
    write_audio("raw/song.wav", tone.astype(np.float32), SR)
    return tmp_path


@pytest.fixture
def stub_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for Whisper where the units do not matter: loading it takes a while."""
    monkeypatch.setattr(
        "svc.conversion.listening.build_speech_encoder", lambda name, **_: StubEncoder(name, 384)
    )


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, **_: object) -> None:
        pytest.fail(f"{path} was read before the models were checked")

    monkeypatch.setattr("svc.conversion.file_source.open_audio", read)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """A function ``run(*arguments)`` that calls `svc infer` on the CPU."""

    def call(*arguments: str) -> Result:
        device = [] if "-d" in arguments else ["-d", "cpu"]
        code = main(["infer", *arguments, *device])
        return Result(code, *capsys.readouterr())

    return call
