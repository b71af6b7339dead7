"""The four graphs of a diffusion voice with the inputs that MoeVoiceStudio gives them (spec_onnx 2).

    encoder   units, pitch, volume -> condition
    denoise   noisy mel, time, condition -> the noise in it
    pred      noisy mel, its noise, time, earlier time -> less noisy mel
    after     mel in -1 ... 1 -> natural-log mel

The loop of the PLMS sampler is the client's (spec_diffusion 8.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.diffusion import Unit2Mel
from svc.export import moevs_examples as examples
from svc.export.graph import GraphCheck, GraphInput, GraphOutput, check_graph, export_graph

OPSET = 16
PARTS = ("encoder", "denoise", "pred", "after")
LOG10 = 0.434294
"""From natural to common logarithms, as vocoders of type nsf-hifigan-log10 want mels."""


class MoevsEncoder(nn.Module):
    """Units at the encoder's rate, pitch and volume -> (1, H, N), what the denoiser is told.

    Args:
        net: the diffusion voice.
    """

    def __init__(self, net: Unit2Mel) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        hubert: Tensor,
        mel2ph: Tensor,
        f0: Tensor,
        volume: Tensor,
        spk_mix: Tensor | None = None,
    ) -> Tensor:
        """Embed.

        Args:
            hubert: (1, S, U) units.
            mel2ph: (1, N) int64, the unit of each frame: 1 ... S, or 0 for a vector of zeros.
            f0: (1, N) Hz.
            volume: (1, N) linear RMS.
            spk_mix: (N, speakers) weights, column = id; only where the voice has several.
        """
        units = F.pad(hubert, (0, 0, 1, 0))[:, mel2ph[0]]
        return self.net.condition(units, f0, volume, speaker_mix=spk_mix)


class MoevsDenoiser(nn.Module):
    """The noise in a mel.

    Args:
        net: the diffusion voice.
    """

    def __init__(self, net: Unit2Mel) -> None:
        super().__init__()
        self.denoiser = net.decoder.denoise_fn

    def forward(self, noise: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Tell the noise in (1, 1, M, N) at time (1,) int64."""
        told: Tensor = self.denoiser(noise, time, condition)
        return told


class MoevsJump(nn.Module):
    """From one time to an earlier one: the transfer function τ of PLMS.

    Args:
        net: the diffusion voice.
    """

    kept: Tensor

    def __init__(self, net: Unit2Mel) -> None:
        super().__init__()
        self.register_buffer("kept", net.decoder.get_buffer("alphas_cumprod").double())

    def forward(self, noise: Tensor, noise_pred: Tensor, time: Tensor, time_prev: Tensor) -> Tensor:
        """Jump with x = noise and its noise, both (1, 1, M, N); times (1,) int64."""
        # τ of spec_diffusion 8.3 in the form keep · x - lose · e, which does not cancel.
        a, p = self.kept[time], self.kept[time_prev]
        keep = torch.sqrt(p / a)
        lose = torch.sqrt(p) * (torch.sqrt(1 / a - 1) - torch.sqrt(1 / p - 1))
        return keep.float() * noise - lose.float() * noise_pred


class MoevsAfter(nn.Module):
    """Normalised mel (1, 1, M, N) -> (1, M, N) natural logarithm, or the vocoder's own.

    Args:
        net: the diffusion voice.
        log10: the vocoder wants common logarithms.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: Unit2Mel, *, log10: bool) -> None:
        super().__init__()
        # -1 and 1 through the net's own arithmetic, which is linear: (1, M, 1) each.
        ends = torch.ones(2, 1, net.n_mels, 1) * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
        low, high = net.decoder.denormalize(ends).double() * (LOG10 if log10 else 1.0)
        self.register_buffer("scale", ((high - low) / 2).float())
        self.register_buffer("shift", ((high + low) / 2).float())

    def forward(self, x: Tensor) -> Tensor:
        """Undo the normalisation."""
        return x[:, 0] * self.scale + self.shift


def export_diffusion(
    net: Unit2Mel,
    paths: Mapping[str, Path],
    *,
    log10: bool,
    tolerance: float,
    metadata: Mapping[str, str],
) -> dict[str, GraphCheck]:
    """Write the four graphs and compare each with the net.

    Args:
        net: on the CPU, in evaluation mode.
        paths: where to write each of `PARTS`.
        log10: mels leave `after` as common logarithms.
        tolerance: largest difference of any number.
        metadata: facts for `metadata_props`.

    Returns:
        How close each graph is, by part.

    Raises:
        ExportError: see `svc.export.graph`.
    """
    modules = {
        "encoder": MoevsEncoder(net),
        "denoise": MoevsDenoiser(net),
        "pred": MoevsJump(net),
        "after": MoevsAfter(net, log10=log10),
    }
    outputs = {
        "encoder": GraphOutput("mel_pred", {2: "frames"}),
        "denoise": GraphOutput("noise_pred", {3: "frames"}),
        "pred": GraphOutput("noise_pred_o", {3: "frames"}),
        "after": GraphOutput("mel_out", {2: "frames"}),
    }
    checks = {}
    for part in PARTS:
        make, module, path = _inputs(net, part), modules[part].eval(), paths[part]
        inputs = [
            GraphInput(name, x, _axes(name, x))
            for name, x in make(examples.RECORDED_FRAMES).items()
        ]
        export_graph(module, inputs, [outputs[part]], path, opset=OPSET, metadata=metadata)
        cases = [[*make(n).values()] for n in examples.CHECKED_FRAMES]
        checks[part] = check_graph(path, module, cases, tolerance=tolerance)
    return checks


def _axes(name: str, x: Tensor) -> dict[int, str]:
    if name in ("time", "time_prev"):
        return {}
    if name == "hubert":
        return {1: "units"}
    if name == "spk_mix":
        return {0: "frames"}
    return {x.dim() - 1: "frames"}


def _inputs(net: Unit2Mel, part: str) -> Callable[[int], dict[str, Tensor]]:
    """Return what makes the inputs of a graph for so many frames."""
    hidden, units_dim = net.unit_embed.weight.shape

    def make(n_frames: int) -> dict[str, Tensor]:
        if part == "encoder":
            hubert, mel2ph = examples.units_of(n_frames, units_dim)
            f0, _ = examples.pitch(n_frames)
            found = {
                "hubert": hubert,
                "mel2ph": mel2ph,
                "f0": f0,
                "volume": examples.volume(n_frames),
            }
            mix = {"spk_mix": examples.mix(n_frames, net.n_spk)} if net.n_spk > 1 else {}
            return {**found, **mix}
        # Both ends of the schedule are met: 200 frames are the recorded ones.
        late = net.k_step_max - 1
        time = torch.tensor([late if n_frames > examples.RECORDED_FRAMES else late // 3])
        x = examples.noise((1, 1, net.n_mels, n_frames), 4)
        if part == "denoise":
            return {"noise": x, "time": time, "condition": examples.noise((1, hidden, n_frames), 5)}
        if part == "pred":
            told = examples.noise((1, 1, net.n_mels, n_frames), 6)
            return {"noise": x, "noise_pred": told, "time": time, "time_prev": time // 2}
        return {"x": x}

    return make
