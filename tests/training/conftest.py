"""A data set small enough to train on in a test: two voices of half-second clips with made-up
features.
"""

from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio
from svc.audio.loudness import frame_volume
from svc.config import SvcConfig, load_config
from svc.dataset.features import FeatureCache

RATE, HOP = 8000, 64
DIM = 384  # the width of whisper-ppg-tiny

TRAIN = {
    "log_interval": 2, "eval_interval": 4, "seed": 7, "epochs": 100, "learning_rate": 2e-4,
    "betas": [0.8, 0.99], "eps": 1e-9, "batch_size": 2, "fp16_run": False, "half_type": "bf16",
    "lr_decay": 0.9, "segment_size": 20 * HOP, "init_lr_ratio": 1, "warmup_epochs": 0, "c_mel": 45,
    "c_kl": 1.0, "use_sr": True, "max_speclen": 512, "port": "8001", "keep_ckpts": 2,
    "all_in_mem": False, "vol_aug": False,
}  # fmt: skip
DATA = {
    "training_files": "train.txt", "validation_files": "val.txt", "max_wav_value": 32768.0,
    "sampling_rate": RATE, "filter_length": 256, "hop_length": HOP, "win_length": 256,
    "n_mel_channels": 20, "mel_fmin": 0.0, "mel_fmax": None, "unit_interpolate_mode": "nearest",
}  # fmt: skip
MODEL = {
    "inter_channels": 8, "hidden_channels": 8, "filter_channels": 16, "n_heads": 2, "n_layers": 1,
    "kernel_size": 3, "p_dropout": 0.1, "resblock": "1", "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]], "upsample_rates": [8, 4, 2],
    "upsample_initial_channel": 16, "upsample_kernel_sizes": [16, 8, 4], "n_layers_q": 3,
    "n_layers_trans_flow": 1, "n_flow_layer": 1, "use_spectral_norm": False, "gin_channels": 6,
    "ssl_dim": DIM, "n_speakers": 2, "vocoder_name": "nsf-hifigan",
    "speech_encoder": "whisper-ppg-tiny", "speaker_embedding": False, "vol_embedding": False,
    "use_depthwise_conv": False, "flow_share_parameter": True,
    "use_automatic_f0_prediction": True, "use_transformer_flow": False, "sampling_rate": RATE,
    "discriminator_width": 0.03,
}  # fmt: skip
SPEAKERS = {"alice": 0, "bob": 1}


@dataclass(frozen=True)
class Voices:
    """Where the data set lies, and how its config is changed."""

    root: Path
    config_path: Path

    @property
    def config(self) -> SvcConfig:
        return load_config(self.config_path)

    def edit(self, **sections: dict[str, Any]) -> SvcConfig:
        raw = json.loads(self.config_path.read_text())
        for name, values in sections.items():
            raw[name] = values if name == "spk" else {**raw[name], **values}
        self.config_path.write_text(json.dumps(raw))
        return self.config

    def files(self, speaker: str = "alice") -> list[Path]:
        return sorted((self.root / speaker).glob("*.wav"))


def make_clip(path: Path, config: SvcConfig, *, frames: int, seed: int) -> None:
    """A buzzing tone with its features; `seed` decides pitch and units."""
    rng = np.random.default_rng(seed)
    pitch = 110.0 + 20 * (seed % 7)
    time = np.arange(frames * HOP + 10) / RATE
    wav = 0.3 * np.sign(np.sin(2 * np.pi * pitch * time)) + 0.02 * rng.standard_normal(len(time))
    write_audio(path, wav.astype(np.float32), RATE)
    samples = torch.from_numpy(wav.astype(np.float32))[None]
    f0 = np.full(frames, pitch, dtype=np.float32)
    uv = np.ones(frames, dtype=np.float32)
    uv[:3] = 0
    units = rng.standard_normal((DIM, max(1, round(frames * HOP / RATE * 50))))
    FeatureCache.from_config(config).save(
        path,
        units=torch.from_numpy(units.astype(np.float32)),
        f0=torch.from_numpy(np.stack([f0, uv])),
        volume=frame_volume(samples, HOP)[0][:frames],
    )


@pytest.fixture
def make_voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Voices]:
    """Return a function that writes a data set and its config, and works in its folder."""

    def make(lengths: tuple[int, ...] = (60, 45, 70, 52, 48), **sections: dict[str, Any]) -> Voices:
        raw: dict[str, Any] = {"train": TRAIN, "data": DATA, "model": MODEL, "spk": SPEAKERS}
        raw = {
            name: values if name == "spk" else {**values, **sections.get(name, {})}
            for name, values in raw.items()
        }
        (tmp_path / "config.json").write_text(json.dumps(raw))
        voices = Voices(tmp_path / "clips", tmp_path / "config.json")
        monkeypatch.chdir(tmp_path)
        lists: dict[str, list[str]] = {"train.txt": [], "val.txt": []}
        for number, speaker in enumerate(SPEAKERS):
            for index, frames in enumerate(lengths):
                path = voices.root / speaker / f"{index}.wav"
                make_clip(path, voices.config, frames=frames, seed=10 * number + index)
                lists["val.txt" if index == len(lengths) - 1 else "train.txt"].append(str(path))
        for name, paths in lists.items():
            (tmp_path / name).write_text("\n".join(paths) + "\n", encoding="utf-8")
        return voices

    return make


@pytest.fixture
def voices(make_voices: Callable[..., Voices]) -> Voices:
    return make_voices()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out drawing, which takes longer than a tiny step."""
    from svc.training import figures

    blank = np.zeros((2, 2, 3), dtype=np.uint8)
    monkeypatch.setattr(figures, "spectrogram_image", lambda mel: blank)
    monkeypatch.setattr(figures, "curves_image", lambda curves: blank)
    monkeypatch.setattr(figures, "comparison_image", lambda truth, made: blank)
    monkeypatch.setattr(figures, "pitch_image", lambda tracks: blank)


@pytest.fixture
def batch(voices: Voices) -> Any:
    """Return a batch of three clips."""
    from svc.training.batches import collate
    from svc.training.clips import ClipDataset

    dataset = ClipDataset(voices.config, voices.files(), augment=False)
    return collate([dataset.clip(index, 1) for index in range(3)])


@pytest.fixture(scope="session")
def diffusion_module() -> Any:
    """The module that makes small runs of a diffusion model."""
    path = Path(__file__).with_name("small_diffusion_run.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_run(
    diffusion_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Return a function that writes data set and config of a diffusion model, in its folder."""
    monkeypatch.chdir(tmp_path)
    make: Callable[..., Any] = diffusion_module.write_run
    return make


# ---- small learners: (a function that makes one, always the same; a batch of clips) --------------


@pytest.fixture
def small_voice(make_voices: Callable[..., Voices]) -> Any:
    """Nets of a voice without dropout, and five clips of different lengths."""
    from svc.training.batches import collate
    from svc.training.clips import ClipDataset
    from svc.training.step import Adversaries

    voices = make_voices(model={"p_dropout": 0.0, "vol_embedding": True})
    files = [*voices.files(), *voices.files("bob")][:5]
    dataset = ClipDataset(voices.config, files, augment=False)

    def make() -> Adversaries:
        torch.manual_seed(1)
        return Adversaries(voices.config, torch.device("cpu"))

    return make, collate([dataset.clip(index, 1) for index in range(5)])


@pytest.fixture
def small_vocoder() -> Any:
    """Nets of a vocoder, and five crops of noise."""
    from svc.config.vocoder import VocoderConfig
    from svc.config.vocoder_training import VocoderRunConfig, VocoderTrainConfig
    from svc.training.vocoder_clips import VocoderBatch
    from svc.training.vocoder_step import VocoderPair

    config = VocoderRunConfig(
        VocoderConfig(
            resblock="2", upsample_rates=(8, 4, 2), upsample_kernel_sizes=(16, 8, 4),
            upsample_initial_channel=32, resblock_kernel_sizes=(3,),
            resblock_dilation_sizes=((1, 3),), num_mels=20, n_fft=256, win_size=256, hop_size=HOP,
            sampling_rate=RATE, fmin=40, fmax=3800,
        ),
        VocoderTrainConfig(segment_size=16 * HOP, discriminator_width=0.03),
    )  # fmt: skip
    rng = torch.Generator().manual_seed(2)
    crops = VocoderBatch(
        mel=torch.randn(5, 20, 16, generator=rng),
        f0=200 + 50 * torch.rand(5, 16, generator=rng),
        wav=0.1 * torch.randn(5, 1, 16 * HOP, generator=rng),
        names=tuple("abcde"),
    )

    def make() -> VocoderPair:
        torch.manual_seed(1)
        return VocoderPair(config, torch.device("cpu"))

    return make, crops


@pytest.fixture
def small_diffusion(make_run: Callable[..., Any]) -> Any:
    """A diffusion model, and four crops."""
    from svc.training.diffusion_clips import DiffusionDataset, batch_of
    from svc.training.diffusion_step import DiffusionLearner

    run = make_run()
    paths = [Path(f"clips/{name}.wav") for name in ("alice/0", "bob/1", "alice/2", "bob/0")]
    dataset = DiffusionDataset(run.config, run.settings, paths)

    def make() -> DiffusionLearner:
        return DiffusionLearner(run.config, torch.device("cpu"), n_mels=16, seed=7)

    return make, batch_of([dataset.crop(index, 1) for index in range(4)])


@pytest.fixture
def vocoder_command(make_run: Callable[..., Any]) -> list[str]:
    """The command that trains a small vocoder, on clips that are there, into the folder ``v``."""
    make_run(lengths=(60, 55, 70, 58, 61))
    raw = json.loads(Path("vocoder/config.json").read_text())
    small = {"discriminator_width": 0.03, "segment_size": 16 * HOP, "eval_interval": 100}
    Path("small.json").write_text(json.dumps({**raw, "train": small}))
    return [
        "train-vocoder", "--dataset", "train.txt", "-c", "small.json", "-o", "v", "--device", "cpu",
        "--val_clips", "1",
    ]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def heeded_hangups() -> Iterator[None]:
    """Under nohup the end of the terminal is ignored, and commands inherit that: not while it is tested."""
    before = signal.getsignal(signal.SIGHUP) if hasattr(signal, "SIGHUP") else None
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, before)
