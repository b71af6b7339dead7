"""Reference nets and inputs of so-vits-svc 4.1's golden arrays, and how far ours are from them.

Weights and inputs are made by a formula (spec_core 12), so nothing but the expected outputs is
stored. Used by scripts/parity.py and tests/parity.

Inference with given F0 runs in plain float32. In the training forward and with automatic F0,
float32 rounding is amplified (exp of large log deviations, pitch integrated into phase) until it is
as large as the limits, and it differs between CPUs; there the encoders and the flow (and the
snake decoder in the forward) run in float64, so that what is left is the rounding of the reference
arrays themselves.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from svc.audio.frames import slice_segments
from svc.audio.mel import linear_spectrogram, synthesizer_mel
from svc.config import SvcConfig, load_config
from svc.synthesizer.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    generator_losses,
    kl_loss,
    mel_loss,
)
from svc.synthesizer.model import Synthesizer, SynthesizerOutput
from svc.vocoder.discriminator import Discriminator
from svc.vocoder.snake import kaiser_sinc_filter

LIMITS = {  # spec_core 12
    "inf_o": 2e-5,
    "mix": 2e-5,
    "o": 2e-5,
    "z": 1e-3,
    "prior": 1e-3,
    "lf0": 2e-5,
    "auto_o": 2e-5,  # ours; spec_core 12 allows 2e-3 end to end
    "auto_f0": 2e-3,
    "kl": 1e-6,
}
Golden = Mapping[str, npt.NDArray[Any]]
Inputs = dict[str, Any]


def hash_noise(stream: int, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Numbers in [-1, 1) that any language can make: row-major, from one stream."""
    r = np.arange(math.prod(shape), dtype=np.float64)  # j, then in place: 50 million per net
    r *= 12.9898
    r += 78.233 * stream
    r += 1
    np.sin(r, out=r)
    r *= 43758.5453
    r -= np.floor(r)
    r *= 2
    r -= 1
    return r.reshape(shape)


def _rule(name: str, shape: tuple[int, ...], r: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if name.endswith("weight_g"):
        return 1 + 0.2 * r
    if name.endswith("gamma"):
        return 1 + 0.1 * r
    if ".act." in name:
        return 0.3 * r
    if name.endswith(".beta"):
        return 0.1 * r
    if name.endswith("bias"):
        return 0.05 * r
    if name in ("emb_g.weight", "emb_uv.weight", "enc_p.f0_emb.weight"):
        return r
    if "emb_rel" in name:
        return 0.3 * r
    return r * math.sqrt(3 * shape[0] / math.prod(shape))


Rule = Callable[[str, tuple[int, ...], npt.NDArray[np.float64]], npt.NDArray[np.float64]]


@torch.no_grad()
def fill_weights(module: nn.Module, rule: Rule = _rule) -> None:
    """Give a net the weights of the reference arrays; tensors with several names take the last
    one's."""
    state = module.state_dict()
    last = {tensor.data_ptr(): name for name, tensor in state.items()}
    for stream, (name, tensor) in enumerate(state.items()):
        if name.endswith("filter"):
            tensor.copy_(kaiser_sinc_filter())
            continue
        if last[tensor.data_ptr()] != name:
            continue
        shape = tuple(tensor.shape)
        tensor.copy_(torch.from_numpy(rule(name, shape, hash_noise(stream, shape)).astype("f4")))
    if "dec.snake_post.act.alpha" in state:
        state["dec.conv_post.weight_g"].mul_(0.02)


def variants(shared: Path) -> list[str]:
    """Names of the variants that have reference arrays."""
    return [p.stem.removeprefix("golden_G_") for p in sorted(shared.glob("golden/golden_G_*.npz"))]


def variant_config(shared: Path, variant: str) -> SvcConfig:
    return load_config(shared / "spec" / "tables" / f"config_{variant}.json")


def build(shared: Path, variant: str) -> Synthesizer:
    """Build a variant with the reference weights, in eval mode."""
    with torch.device("meta"):  # no random initialisation
        model = Synthesizer.from_config(variant_config(shared, variant), compat=True)
    fill_weights(model.to_empty(device="cpu"))
    return model.eval()


def _uniform(
    stream: int, shape: tuple[int, ...], scale: float = 1, offset: float = 0
) -> npt.NDArray[np.float32]:
    made: npt.NDArray[np.float32] = (offset + scale * hash_noise(stream, shape)).astype("f4")
    return made


def reference_inputs(config: SvcConfig) -> Inputs:
    """Inputs of spec_core 12: two clips of 40 and 33 frames."""
    n = 40
    f0 = _uniform(9002, (2, n), 100, 300)
    f0[:, 10:14] = 0
    uv = (f0 > 0).astype("f4")
    f0[0, 20:23] = 1120  # above the last pitch bin
    f0[1, 33:] = uv[1, 33:] = 0
    inputs = {
        "units": _uniform(9001, (2, config.model.ssl_dim, n)),
        "f0": f0,
        "uv": uv,
        "spec": _uniform(9003, (2, config.data.spec_channels, n), 0.5, 0.5),
        "speaker": np.array([1, 3]),
        "lengths": np.array([n, 33]),
    }
    tensors: Inputs = {name: torch.from_numpy(array) for name, array in inputs.items()}
    volume = _uniform(9004, (2, n), 0.1, 0.15)
    tensors["volume"] = torch.from_numpy(volume) if config.model.vol_embedding else None
    return tensors


def run_forward(model: Synthesizer, inputs: Inputs) -> SynthesizerOutput:
    torch.manual_seed(1234)
    with torch.no_grad():
        output: SynthesizerOutput = model(**inputs)
    return output


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"differs from the reference arrays: {what}")


def _difference(found: Tensor, expected: npt.NDArray[Any]) -> float:
    _require(tuple(found.shape) == expected.shape, f"shape {found.shape}, not {expected.shape}")
    return float((found.double() - torch.from_numpy(expected).double()).abs().max())


def exact_latents(model: Synthesizer) -> None:
    """Run encoders and flow in float64; F0 decoder and decoder stay in float32."""

    def to_own_dtype(module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, Any]:
        dtype = next(module.parameters()).dtype
        return tuple(arg.to(dtype) for arg in args), kwargs

    model.double()
    for part in (model.f0_decoder, model.dec):
        if part is not None:
            part.float().register_forward_pre_hook(to_own_dtype, with_kwargs=True)


def measure(shared: Path, variant: str, *, plain: bool = False) -> dict[str, float]:
    """Largest absolute difference of every output of one variant (KL: relative).

    Args:
        shared: folder of the reference arrays.
        variant: its name.
        plain: add the forward and the automatic F0 in plain float32.
    """
    golden: Golden = np.load(shared / "golden" / f"golden_G_{variant}.npz")
    model = build(shared, variant)
    inputs = reference_inputs(variant_config(shared, variant))
    for name, key in (("units", "c"), ("f0", "f0"), ("uv", "uv")):
        _require(np.array_equal(inputs[name].numpy(), golden[f"in_{key}"]), f"input {name}")
    first = {name: inputs[name][:1] for name in ("units", "f0", "uv", "speaker")}
    first["volume"] = None if inputs["volume"] is None else inputs["volume"][:1]

    wav, f0 = model.infer(**first, noise_scale=0.4)
    figures = {"inf_o": _difference(wav, golden["inf_o"])}
    _require(_difference(f0, golden["inf_f0"]) == 0, "given f0 is returned")
    if "inf_mix_o" in golden:
        mix = torch.from_numpy(golden["mix_g"])
        mixed = {**first, "speaker": None, "speaker_mix": mix}
        figures["mix"] = _difference(model.infer(**mixed, noise_scale=0.4)[0], golden["inf_mix_o"])
    if model.has_auto_f0:
        # From the stored F0: of an F0 that differs by rounding, integrated into the phase, comes
        # another wave of the same sound, and by how much depends on the CPU.
        given = {**first, "f0": torch.from_numpy(golden["inf_auto_f0"])}
        wav, _ = model.infer(**given, noise_scale=0.4)
        figures["auto_o"] = _difference(wav, golden["inf_auto_o"])
    if plain:
        figures["o_32"] = _difference(run_forward(model, inputs).wav, golden["fwd_o"])
        if model.has_auto_f0:
            wav, _ = model.infer(**first, noise_scale=0.4, predict_f0=True)
            figures["auto_32"] = _difference(wav, golden["inf_auto_o"])

    exact_latents(model)
    if model.config.vocoder_name == "nsf-snake-hifigan":  # amplifies rounding most
        model.dec.double()
    out = run_forward(model, inputs)
    model.dec.float()
    _require(out.starts.tolist() == golden["fwd_ids"].tolist(), "windows")
    _require(_difference(out.mask, golden["fwd_mask"]) == 0, "mask")
    groups = {"z": ("z", "z_p", "m_q", "logs_q"), "prior": ("m_p", "logs_p")}
    if model.has_auto_f0:
        groups["lf0"] = ("pred_lf0", "norm_lf0", "lf0")
    for key, names in groups.items():
        figures[key] = max(_difference(getattr(out, n), golden[f"fwd_{n}"]) for n in names)
    figures["o"] = _difference(out.wav, golden["fwd_o"])
    arguments = ("z_p", "logs_q", "m_p", "logs_p", "mask")
    stored = kl_loss(*(torch.from_numpy(golden[f"fwd_{name}"]) for name in arguments))
    whole = kl_loss(*(getattr(out, name) for name in arguments))
    figures["kl"], figures["kl_whole"] = (
        abs(float(value) / float(golden["fwd_kl"]) - 1) for value in (stored, whole)
    )
    if model.f0_decoder is not None:
        model.f0_decoder.double()
        _, f0 = model.infer(**first, noise_scale=0.4, predict_f0=True)
        figures["auto_f0"] = _difference(f0, golden["inf_auto_f0"])
    return figures


def build_discriminator() -> Discriminator:
    """Build the discriminator with the reference weights, in eval mode."""
    with torch.device("meta"):
        discriminator = Discriminator()
    fill_weights(discriminator.to_empty(device="cpu"))
    return discriminator.eval()


def _grad_norm(grads: list[Tensor]) -> float:
    # Per tensor in float32, as the stored figures were made: over millions of elements that is 1e-4
    # off.
    return math.sqrt(sum(float(g.norm(2)) ** 2 for g in grads))


def train_step(shared: Path) -> dict[str, Any]:
    """One optimiser step of default G and D; the keys of golden_trainstep.json."""
    config = variant_config(shared, "default_vec768l12")
    model, discriminator = build(shared, "default_vec768l12"), build_discriminator()
    inputs = reference_inputs(config)
    wav = torch.from_numpy(_uniform(9103, (2, 1, 20480), 0.3))
    log_mel = synthesizer_mel(44100, 2048, 512, 2048, 80, 0.0, 22050)
    optim = {
        name: torch.optim.AdamW(net.parameters(), 1e-4, betas=(0.8, 0.99), eps=1e-9)
        for name, net in (("g", model), ("d", discriminator))
    }
    torch.manual_seed(1234)
    out: SynthesizerOutput = model(**inputs)
    mel = slice_segments(log_mel.from_spec(inputs["spec"]), out.starts, 20)
    real = slice_segments(wav, out.starts * 512, 10240)
    d_loss, _ = discriminator_loss(*discriminator(real, out.wav.detach())[:2])
    optim["d"].zero_grad()
    d_loss.backward()  # type: ignore[no-untyped-call]
    d_norm = _grad_norm([p.grad for p in discriminator.parameters() if p.grad is not None])
    optim["d"].step()

    _, fake_scores, real_maps, fake_maps = discriminator(real, out.wav)
    losses = generator_losses(
        out,
        mel,
        log_mel(out.wav[:, 0]),
        c_mel=45,
        c_kl=1,
        fake_scores=fake_scores,
        real_maps=real_maps,
        fake_maps=fake_maps,
    )
    optim["g"].zero_grad()
    losses.total.backward()  # type: ignore[no-untyped-call]
    by_module = {
        name: _grad_norm([p.grad for p in child.parameters() if p.grad is not None])
        for name, child in model.named_children()
    }
    g_norm = math.sqrt(sum(norm**2 for norm in by_module.values()))
    without = [name for name, p in model.named_parameters() if p.grad is None]
    optim["g"].step()
    return {
        **{name: float(value) for name, value in losses.parts.items()},
        "disc": float(d_loss.detach()),
        "total": float(losses.total.detach()),
        "grad_norm_d": d_norm,
        "grad_norm_g": g_norm,
        "ids": out.starts.tolist(),
        "grad_norm_by_module": by_module,
        "params_without_grad": without,
        "after_step_abs_sum": _abs_sums(model),
        "D_after_step_abs_sum": _abs_sums(discriminator),
    }


def _abs_sums(net: nn.Module) -> dict[str, float]:
    return {name: float(p.detach().double().abs().sum()) for name, p in net.named_parameters()}


def discriminator_figures(shared: Path) -> dict[str, float]:
    """Largest absolute difference of the scores and relative difference of the losses in
    golden_D.npz."""
    golden: Golden = np.load(shared / "golden" / "golden_D.npz")
    y, y_hat = (torch.from_numpy(_uniform(s, (2, 1, 10240), 0.3)) for s in (9101, 9102))
    with torch.no_grad():
        real, fake, real_maps, fake_maps = build_discriminator()(y, y_hat)
    scores = [_difference(s, golden[f"real_{i}"]) for i, s in enumerate(real)]
    scores += [_difference(s, golden[f"fake_{i}"]) for i, s in enumerate(fake)]
    log_mel = synthesizer_mel(44100, 2048, 512, 2048, 80, 0.0, 22050)
    spec = linear_spectrogram(y[:, 0], n_fft=2048, hop_length=512, win_length=2048)
    losses = {
        "disc": discriminator_loss(real, fake)[0],
        "gen": adversarial_loss(fake),
        "fm": feature_loss(real_maps, fake_maps),
        "mel_l1_x45": 45 * mel_loss(log_mel(y[:, 0]), log_mel(y_hat[:, 0])),
    }
    relative = {name: abs(float(v) / float(golden[name]) - 1) for name, v in losses.items()}
    return {"scores": max(scores), "spec": _difference(spec, golden["spec_y"]), **relative}
