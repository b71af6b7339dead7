"""A song with pauses and a voice with made-up weights, for infer.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
from nets import wave_net
from plain import PlainWave
from reference_nets import fill_weights

from svc.audio.writer import AudioWriter
from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.config import SvcConfig, load_config, save_config
from svc.demo.melody import compose, perform
from svc.demo.singer import DEMO_HIGH, SAMPLING_RATE
from svc.speech.registry import ENCODERS
from svc.speech.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from svc.speech.wave_encoder import Wav2Vec2Encoder
from svc.synthesizer.model import Synthesizer

FloatArray = npt.NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[2]
SPEAKER = "voice"
ENCODER = "vec768l12"
# Seconds of a phrase and of the pause after it.
PHRASES = ((6.3, 0.8), (8.1, 1.6), (5.4, 0.5), (11.2, 2.4), (7.0, 1.0), (9.6, 4.2))


# ---- the song ------------------------------------------------------------------------------------


def sung(seconds: float) -> FloatArray:
    """The demo singer with pauses, so many seconds or about a minute where that is less: (T,) at
    `SAMPLING_RATE`.
    """
    parts: list[FloatArray] = []
    for number, (phrase, pause) in enumerate(PHRASES):
        if sum(map(len, parts)) >= seconds * SAMPLING_RATE:
            break
        rng = np.random.default_rng([11, number])
        wav = perform(compose(DEMO_HIGH, phrase, rng), DEMO_HIGH, rng).wav
        parts += [wav, np.zeros(round(pause * SAMPLING_RATE), np.float32)]
    return np.concatenate(parts)


def write_song(path: Path, wav: FloatArray, sr: int, seconds: float) -> None:
    """Write a 16-bit wav of so many seconds.

    Args:
        path: the file.
        wav: (T,). Where it is shorter it comes again, each time a little softer: what has been heard
            before need not be computed again, and no song is like that.
        sr: its rate, Hz.
        seconds: length of the file.
    """
    left, gain = round(seconds * sr), 1.0
    with AudioWriter(path, sr) as writer:
        while left > 0:
            writer.write(gain * wav[:left])
            left, gain = left - wav.size, gain * 0.995


# ---- the nets ------------------------------------------------------------------------------------


def small_config(config: SvcConfig) -> SvcConfig:
    """The same kinds of nets, tiny."""
    model = dataclasses.replace(
        config.model, inter_channels=16, hidden_channels=16, filter_channels=32, n_layers=2,
        upsample_initial_channel=32, gin_channels=8, n_speakers=1, resblock="2",
        resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1, 3),),
    )  # fmt: skip
    return dataclasses.replace(config, model=model)


def write_voice(folder: Path, *, quick: bool) -> Path:
    """Write checkpoint and config of the default config's voice, with the weights of the reference
    nets; returns the checkpoint.
    """
    config = dataclasses.replace(load_config(ROOT / "configs" / "template.json"), spk={SPEAKER: 0})
    if quick:
        config = small_config(config)
    net = Synthesizer.from_config(config)
    fill_weights(net)
    path = folder / "G_0.pth"
    state = {"model": net.state_dict(), "iteration": 1, "optimizer": None, "learning_rate": 1e-4}
    save_checkpoint(state, path)
    save_config(config, folder / "config.json")
    return path


def load_plain(folder: Path) -> tuple[SvcConfig, Synthesizer]:
    """Config and net of `write_voice` as the original has them: weight norm not folded."""
    config = load_config(folder / "config.json")
    net = Synthesizer.from_config(config, compat=True)
    net.load_state_dict(load_checkpoint(folder / "G_0.pth")["model"])
    return config, net.eval().requires_grad_(False)


def _encoder_net(*, quick: bool) -> Wav2Vec2:
    """ContentVec with random weights; `quick`: as wide at its end and thin everywhere else."""
    narrow, wide = 16 if quick else 512, 32 if quick else 3072
    return wave_net(
        Wav2Vec2Config(
            conv_channels=(narrow,) * 7,
            conv_bias=False,
            conv_layer_norm=False,
            dim=ENCODERS[ENCODER].dim,
            n_heads=(1 if quick else 12,) * 12,
            ffn_dims=(wide,) * 12,
            head_dim=64,
            pre_norm=False,
            position_kernel=128,
            position_groups=16,
            projection_dim=256,
        )
    )


def build_encoder(*, quick: bool, device: str, precision: str = "fp32") -> Wav2Vec2Encoder:
    """The speech encoder as `svc infer` has it."""
    return Wav2Vec2Encoder(
        _encoder_net(quick=quick), name=ENCODER, layer=ENCODERS[ENCODER].layer, device=device,
        precision=precision,
    )  # fmt: skip


def build_plain_encoder(*, quick: bool, device: str) -> PlainWave:
    """The same encoder with nothing made faster."""
    return PlainWave(_encoder_net(quick=quick), layer=ENCODERS[ENCODER].layer, device=device)
