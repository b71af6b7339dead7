"""The nets of infer.py's rows: who computes what of the plain path, and the speed of each net alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from infer_plain import ENCODER_SR, NOISE_SCALE, PlainConverter, PlainNets, Steps, retrieval_step
from infer_rows import Row
from infer_song import ENCODER, SPEAKER, build_encoder, build_plain_encoder, load_plain
from infer_stages import Stages
from infer_work import operations, seconds_of
from torch import Tensor, nn

from svc.config import SvcConfig
from svc.f0 import build_f0_predictor
from svc.retrieval.base import load_retriever
from svc.synthesizer.model import DEFAULT_SEED, Synthesizer
from svc.vocoder.backends.base import Decoder
from svc.vocoder.backends.choose import make_decoder
from svc.vocoder.source import SourceNoise

Encode = Callable[[Tensor], Tensor]
Latent = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Generate = Callable[[Tensor, Tensor, Tensor], Tensor]
Order = dict[str, Any]

RETRIEVED = 0.5  # share of the target's own units, where an index is asked for


class Singer(Protocol):
    """Converts files."""

    sr: int
    """Hz, of the result."""
    stages: Stages

    def sing(self, source: Path, target: Path) -> tuple[int, float]:
        """Return the samples of the result, and seconds until the first were there."""


# ---- the nets ------------------------------------------------------------------------------------


def encoder_of(name: str, *, quick: bool, device: str) -> Encode:
    """The speech encoder: "plain", or the precision of ours."""
    if name == "plain":
        return build_plain_encoder(quick=quick, device=device).encode
    return torch.inference_mode()(build_encoder(quick=quick, device=device, precision=name).encode)


def latent_of(name: str, nets: PlainNets) -> Latent:
    """Prior and flow: "plain" or "ours"."""
    if name == "plain":
        return nets.latent
    net = ours(nets.net)
    net.fold_weight_norm()
    net.dec = LatentOnly()

    @torch.inference_mode()
    def latent(units: Tensor, f0: Tensor, uv: Tensor, g: Tensor) -> Tensor:
        speaker = torch.zeros(1, dtype=torch.long, device=units.device)
        made: Tensor = net.infer(units, f0, uv, speaker, noise_scale=NOISE_SCALE)[0]
        return made

    return latent


class LatentOnly(nn.Module):
    """In the place of a decoder: returns what it is given, and needs no noise."""

    class NoSource:
        """Draws nothing."""

        def draw(self, batch: int, n_frames: int, **_: object) -> SourceNoise:
            del n_frames
            return SourceNoise(torch.zeros(batch, 0), torch.zeros(batch, 0, 0))

    def __init__(self) -> None:
        super().__init__()
        self.m_source = self.NoSource()

    def forward(self, z: Tensor, f0: Tensor, g: Tensor, *, random: SourceNoise) -> Tensor:
        """Return z."""
        del f0, g, random
        return z


def generator_of(name: str, nets: PlainNets) -> Generate:
    """The generator.

    Args:
        name: "plain"; "folded", the plain one whose weights are normalised once; "source", ours with
            weight norm, whose harmonic source is in closed form; or back end and precision, such as
            "onnx fp32" or "torch bf16 compiled".
        nets: give the weights.
    """
    if name == "plain":
        return nets.generate
    if name == "folded":
        return PlainNets(nets.net, folded=True).generate
    net = ours(nets.net)
    if name == "source":
        return sung_by(net.dec)
    net.fold_weight_norm()
    backend, precision, *compiled = name.split()
    return sung_by(make_decoder(net.dec, backend, precision, compiled=bool(compiled)))


def ours(net: Synthesizer) -> Synthesizer:
    """A copy with our arithmetic."""
    made = copy.deepcopy(net)
    made.compat = made.dec.m_source.compat = False
    return made


def sung_by(decoder: Decoder) -> Generate:
    """A decoder as a step."""

    @torch.inference_mode()
    def generate(z: Tensor, f0: Tensor, g: Tensor) -> Tensor:
        draws = torch.Generator().manual_seed(DEFAULT_SEED)
        noise = decoder.m_source.draw(*f0.shape, generator=draws, device=f0.device)
        return decoder(z, f0, g, random=noise)

    return generate


# ---- a song --------------------------------------------------------------------------------------


def plain_singer(folder: Path, row: Row, order: Order) -> PlainConverter:
    """The plain path, its steps replaced as a row says.

    Args:
        folder: of `write_voice`.
        row: what is replaced.
        order: `device`, `quick`, `clock`, `f0` (an id of `svc.f0`) and `index` (path, or None).
    """
    device, quick = order["device"], order["quick"]
    config, net = load_plain(folder)
    nets = PlainNets(net.to(device))
    data = config.data
    match = None
    if order["index"] is not None:
        retriever = load_retriever(
            order["index"], dim=config.model.ssl_dim, device=device, encoder=ENCODER
        )
        match = retrieval_step(retriever, RETRIEVED, SPEAKER)
    steps = Steps(
        encode=encoder_of(row.encoder, quick=quick, device=device),
        melody=build_f0_predictor(
            order["f0"], sampling_rate=data.sampling_rate, hop_length=data.hop_length,
            device=device, compat=True,
        ),
        latent=latent_of(row.latent, nets),
        generate=generator_of(row.generator, nets),
        match=match,
    )  # fmt: skip
    return PlainConverter(
        nets, steps, sr=data.sampling_rate, hop=data.hop_length, mode=data.unit_interpolate_mode,
        device=device, ahead=row.ahead, stages=Stages(order["clock"]),
    )  # fmt: skip


# ---- a net alone ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """Made-up input of the nets: N frames."""

    wav: Tensor
    """(T,) at 16 kHz."""
    units: Tensor
    """(1, D, N)."""
    f0: Tensor
    """(1, N) Hz."""
    uv: Tensor
    """(1, N)."""
    z: Tensor
    """(1, C, N)."""

    @classmethod
    def made_up(cls, config: SvcConfig, seconds: float, device: str) -> Input:
        """Noise, and a tone with vibrato."""
        n_frames = round(seconds * config.data.sampling_rate / config.data.hop_length)
        draws = torch.Generator().manual_seed(0)
        time = torch.linspace(0, seconds, n_frames)
        parts = (
            0.1 * torch.randn(round(seconds * ENCODER_SR), generator=draws),
            torch.randn(1, config.model.ssl_dim, n_frames, generator=draws),
            220 * torch.exp2(0.04 * torch.sin(2 * math.pi * 5.5 * time))[None],
            torch.ones(1, n_frames),
            torch.randn(1, config.model.inter_channels, n_frames, generator=draws),
        )
        return cls(*(part.to(device) for part in parts))


def net_of(
    net: str, name: str, nets: PlainNets, *, quick: bool, device: str
) -> Callable[[Input], Tensor]:
    """What is timed: `net` ("generator", "prior and flow", "encoder"), computed by `name`."""
    g = nets.condition(0)
    if net == "generator":
        generate = generator_of(name, nets)
        return lambda given: generate(given.z, given.f0, g)
    if net == "encoder":
        encode = encoder_of(name, quick=quick, device=device)
        return lambda given: encode(given.wav)
    latent = latent_of(name, nets)
    return lambda given: latent(given.units, given.f0, given.uv, g)


@torch.no_grad()
def measure_net(order: Order) -> dict[str, Any]:
    """Time a net on made-up input.

    Args:
        order: `net` and `name` as of `net_of`; `audio` seconds, `runs`, `clock`, `folder`, `device`,
            `quick`.

    Returns:
        `new`, the seconds of the first run at a length, and `seconds`, the least of those after it;
        `operations`, those of the plain net; and `snr`, dB, of a generator to the plain one, where that
        was measured before.
    """
    net, name, device, quick = (order[key] for key in ("net", "name", "device", "quick"))
    config, synthesizer = load_plain(Path(order["folder"]))
    nets = PlainNets(synthesizer.to(device))
    run = net_of(net, name, nets, quick=quick, device=device)
    run(Input.made_up(config, 1.1 * order["audio"], device))  # another length
    given = Input.made_up(config, order["audio"], device)
    new, again = seconds_of(lambda: run(given), torch.device(device), order["runs"], order["clock"])
    answer: dict[str, Any] = {"new": new, "seconds": again}
    if net == "generator":
        torch.manual_seed(DEFAULT_SEED)
        wav, stored = run(given).float().cpu().numpy(), Path(order["folder"]) / "generator.npy"
        if name == "plain":
            np.save(stored, wav)
        elif stored.is_file():
            wanted = np.load(stored)
            signal, noise = np.square(wanted).mean(), np.square(wav - wanted).mean()
            answer["snr"] = 10 * math.log10(signal / noise) if noise else math.inf
    nowhere = PlainNets(synthesizer.to("meta"))
    count = net_of(net, "plain", nowhere, quick=quick, device="meta")
    given = Input.made_up(config, order["audio"], "meta")
    return {**answer, "operations": operations(lambda: count(given))}
