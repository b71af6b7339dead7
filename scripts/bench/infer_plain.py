"""The conversion that infer.py compares with: as so-vits-svc 4.1 does it (spec_core 2.9, 8.2-8.5).

The whole song in memory, cut at silences, one slice at a time, zeros around each, float32; 1-D
convolutions in torch's own layout, weight norm anew in every call, attention with all its scores, F0
repeated per sample and phases summed over samples; nothing is heard before everything is sung. Rows of
the table replace single steps by ours. Used by scripts/bench/infer.py and tests/scripts/test_bench_infer.py.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torch.nn.functional as F
from infer_stages import Stages
from torch import Tensor, nn
from train_plain_nets import Weights, decoder, transformer, wavenet

from svc.audio.frames import expand_units
from svc.audio.io import read_audio
from svc.audio.pitch import F0Track, f0_to_coarse
from svc.audio.resample import resampled_length, sinc_resample
from svc.audio.slicer import Segment, Slicer
from svc.retrieval.base import UnitRetriever
from svc.synthesizer.model import DEFAULT_SEED, ORIGINAL_SAMPLING_RATE, Synthesizer

FloatArray = npt.NDArray[np.float32]

NOISE_SCALE = 0.4
PAD_SECONDS = 0.5  # zeros on both sides of a slice
SLICE_DB = -40.0
ENCODER_SR = 16000  # Hz
_COUPLINGS = (6, 4, 2, 0)


# ---- the nets ------------------------------------------------------------------------------------


class PlainNets:
    """Prior, flow and decoder of a voice, on its net's parameters.

    Args:
        net: the default kinds of nets: residual flow, plain generator, no volume.
        folded: normalise the weights once.

    Raises:
        ValueError: a variant of the nets that is not compared.
    """

    def __init__(self, net: Synthesizer, *, folded: bool = False) -> None:
        model = net.config
        if model.use_transformer_flow or "snake" in model.vocoder_name or model.vol_embedding:
            raise ValueError("only the default kinds of nets have a plain path")
        self.model, self.net = model, net
        tensors = dict(net.named_parameters(remove_duplicate=False))
        if folded:
            for name in [name for name in tensors if name.endswith(".weight_g")]:
                plain = name.removesuffix("_g")
                weight = torch._weight_norm(tensors[f"{plain}_v"].data, tensors[name].data, 0)
                tensors[plain] = nn.Parameter(weight, requires_grad=False)
        self.w = Weights(tensors)

    def condition(self, speaker: int) -> Tensor:
        """(1, G, 1)."""
        return self.w["emb_g.weight"][[speaker]][:, :, None]

    def latent(self, units: Tensor, f0: Tensor, uv: Tensor, g: Tensor) -> Tensor:
        """Units (1, D, N), f0 and uv (1, N) -> z (1, C, N)."""
        w, model = self.w, self.model
        torch.manual_seed(DEFAULT_SEED)
        mask = torch.ones_like(f0)[:, None]
        x = w.conv("pre", units, padding=2) * mask
        x = x + F.embedding(uv.long(), w["emb_uv.weight"]).transpose(1, 2)
        pitch = f0_to_coarse(f0, compat=True)
        x = x + F.embedding(pitch, w["enc_p.f0_emb.weight"]).transpose(1, 2)
        x = transformer(w, "enc_p.enc_", x * mask, mask, model, 0.0, causal=False)
        m, logs = torch.split(w.conv("enc_p.proj", x) * mask, model.inter_channels, 1)
        z = (m + torch.randn_like(m) * torch.exp(logs) * NOISE_SCALE) * mask
        for i in _COUPLINGS:
            name = f"flow.flows.{i}"
            x0, x1 = torch.split(torch.flip(z, [1]), z.shape[1] // 2, 1)
            h = w.conv(f"{name}.pre", x0) * mask
            h = wavenet(w, f"{name}.enc", h, mask, g, model.n_flow_layer)
            z = torch.cat([x0, (x1 - w.conv(f"{name}.post", h) * mask) * mask], 1)
        return z

    def generate(self, z: Tensor, f0: Tensor, g: Tensor) -> Tensor:
        """z (1, C, N), f0 (1, N) -> (1, 1, N * hop)."""
        return decoder(self.w, self.model, z, f0, g, ORIGINAL_SAMPLING_RATE)


# ---- one song ------------------------------------------------------------------------------------


def cut_at_silences(wav: FloatArray, sr: int) -> list[Segment]:
    """(T,) -> loud and silent stretches."""
    return Slicer(sr, threshold_db=SLICE_DB).slice(wav)


def through_a_file(wav: FloatArray, sr: int) -> FloatArray:
    """Write (n,) as 16-bit wav into memory and read it back."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, sr, format="WAV", subtype="PCM_16")
    buffer.seek(0)
    read: FloatArray = soundfile.read(buffer, dtype="float32")[0]
    return read


def write_whole(path: Path, wav: npt.NDArray[np.floating], sr: int) -> None:
    """Write (T,) in the format of the suffix."""
    soundfile.write(path, wav, sr)


@dataclass(frozen=True)
class Steps:
    """What is done to a song; any step can be replaced or timed."""

    encode: Callable[[Tensor], Tensor]
    """(T,) samples at 16 kHz -> units (1, D, S)."""
    melody: Callable[[FloatArray], F0Track]
    latent: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """As `PlainNets.latent`."""
    generate: Callable[[Tensor, Tensor, Tensor], Tensor]
    """As `PlainNets.generate`."""
    match: Callable[[Tensor], Tensor] | None = None
    """Draws units (N, D) towards the target's own."""
    read: Callable[[Path], tuple[FloatArray, int]] = read_audio
    cut: Callable[[FloatArray, int], list[Segment]] = cut_at_silences
    detour: Callable[[FloatArray, int], FloatArray] = through_a_file
    resample: Callable[[Tensor, int, int], Tensor] = sinc_resample
    write: Callable[[Path, npt.NDArray[np.floating], int], None] = write_whole

    def timed(self, stages: Stages) -> Steps:
        """The same steps under a stopwatch."""
        names = {
            "encode": "encoder", "melody": "F0", "latent": "prior and flow", "generate": "generator",
            "read": "read", "cut": "slice", "detour": "join", "resample": "resample",
            "write": "write",
        }  # fmt: skip
        made = {step: stages.timed(name, getattr(self, step)) for step, name in names.items()}
        if self.match is not None:
            made["match"] = stages.timed("retrieval", self.match)
        return replace(self, **made)


def retrieval_step(
    retriever: UnitRetriever, ratio: float, speaker: str
) -> Callable[[Tensor], Tensor]:
    """Mix units (N, D), stretched to frames before, with what is found for them."""

    def match(units: Tensor) -> Tensor:
        return ratio * retriever.match(units, speaker, 0) + (1 - ratio) * units

    return match


class PlainConverter:
    """Sings a song slice by slice.

    Args:
        nets: for the speaker's condition.
        steps: what is done.
        sr: rate of the voice, Hz.
        hop: samples per frame.
        mode: how units are stretched to frames.
        device: where the nets are.
        ahead: slices whose F0 is found, in another thread, before they are sung.
        stages: what the steps are timed with.
    """

    def __init__(
        self, nets: PlainNets, steps: Steps, *, sr: int, hop: int, mode: str,
        device: torch.device | str = "cpu", ahead: int = 0, stages: Stages | None = None,
    ) -> None:  # fmt: skip
        self.stages = stages or Stages()
        self.steps = steps.timed(self.stages)
        self.nets, self.sr, self.hop, self.mode, self.ahead = nets, sr, hop, mode, ahead
        self.device = torch.device(device)

    @torch.no_grad()
    def sing(self, source: Path, target: Path) -> tuple[int, float]:
        """Convert a file.

        Returns:
            Samples of the result, and seconds until the first of them were there: only the whole is.
        """
        begun = self.stages.clock()
        stages, steps = self.stages, self.steps
        wav, sr = steps.read(source)
        result: list[float] = []
        for length, heard, track in self._listen(self._slices(wav, sr)):
            made = np.zeros(length, np.float32)
            if heard is not None and track is not None:
                made = self._render(heard, track)
                with stages.stage("join"):
                    cut = int(PAD_SECONDS * self.sr)
                    made = made[cut : len(made) - cut]
            with stages.stage("join"):
                missing = max(0, length - len(made))
                result.extend(np.pad(made, (missing // 2, missing - missing // 2)).tolist())
        with stages.stage("join"):
            song = np.array(result)
        first = self.stages.clock() - begun
        steps.write(target, song, self.sr)
        return len(song), first

    def _slices(self, wav: FloatArray, sr: int) -> Iterator[tuple[int, Tensor | None]]:
        """Length of every slice, and what is heard of it at the voice's rate; None = silence."""
        for segment in self.steps.cut(wav, sr):
            chunk = wav[segment.start : segment.end]
            if not chunk.size:
                continue
            length = resampled_length(chunk.size, sr, self.sr)
            if segment.silent:
                yield length, None
                continue
            padded = self.steps.detour(np.pad(chunk, int(PAD_SECONDS * sr)), sr)
            yield length, self.steps.resample(torch.from_numpy(padded), sr, self.sr)

    def _listen(
        self, slices: Iterator[tuple[int, Tensor | None]]
    ) -> Iterator[tuple[int, Tensor | None, F0Track | None]]:
        """Add the melody to every slice."""
        melody = self.steps.melody
        with ThreadPoolExecutor(1) as thread:
            waiting: deque[tuple[int, Tensor | None, Future[F0Track] | None]] = deque()
            for length, heard in slices:
                future = None if heard is None else thread.submit(melody, heard.numpy())
                waiting.append((length, heard, future))
                if len(waiting) > self.ahead:
                    yield _done(waiting.popleft())
            while waiting:
                yield _done(waiting.popleft())

    def _render(self, source: Tensor, track: F0Track) -> FloatArray:
        """Render a padded slice (n,): whole frames."""
        steps, n_frames = self.steps, len(source) // self.hop
        f0, uv = (
            torch.from_numpy(part).float().to(self.device)[None] for part in (track.f0, track.uv)
        )
        heard = steps.resample(source, self.sr, ENCODER_SR).to(self.device)
        units = expand_units(steps.encode(heard), n_frames, self.mode, compat=True)
        if steps.match is not None:
            units = steps.match(units[0].t().contiguous()).t()[None]
        g = self.nets.condition(0)
        made: FloatArray = steps.generate(steps.latent(units, f0, uv, g), f0, g)[0, 0].cpu().numpy()
        return made


def _done(
    waiting: tuple[int, Tensor | None, Future[F0Track] | None],
) -> tuple[int, Tensor | None, F0Track | None]:
    length, heard, future = waiting
    return length, heard, None if future is None else future.result()
