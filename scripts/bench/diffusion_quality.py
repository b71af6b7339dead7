"""How near few evaluations come to ddpm's 100, and what half precision changes, with a trained model on the held-out
clips of its own run. Used by scripts/bench/diffusion.py.

What is refined is the mel of the wav that the vocoder makes of the recording's mel: blurred as a voice's is, and the
recording is known. Every sampler starts from the same mel in the same noise. ddpm draws new noise at each step, so
several runs of it are made; how far two of them are apart is the least that any other sampler can be expected to be.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svc.audio.frames import expand_units
from svc.config import DiffusionConfig
from svc.dataset.feature_files import load_f0, load_mels, load_units, load_volume
from svc.dataset.filelist import read_filelist
from svc.diffusion import METHODS, Unit2Mel, load_diffusion
from svc.vocoder.nsf_hifigan import NsfHifigan, load_vocoder

K_STEP = 100
EVALUATIONS = (2, 3, 4, 5, 6, 8, 10, 20)
_LIMIT = "dpm-solver++"
_MAX_FRAMES = 1300  # of a clip: 15 s
Table = tuple[list[str], str]


@dataclass(frozen=True)
class Nets:
    """A trained diffusion model with its vocoder, for inference in float32."""

    diffusion: Unit2Mel
    vocoder: NsfHifigan
    config: DiffusionConfig
    device: torch.device


@dataclass(frozen=True)
class Clip:
    """A recording of N frames that the model has not seen, and what is refined; one each."""

    mel: Tensor  # (1, M, N), of the recording
    units: Tensor  # (1, N, U)
    f0: Tensor  # (1, N) Hz
    volume: Tensor  # (1, N)
    speaker: Tensor  # (1,)
    start: Tensor  # (1, M, N), to refine


def load_nets(model: Path, data: Path, device: torch.device) -> Nets:
    """Load the newest model in a folder, or the one named, and the vocoder of its config."""
    if model.is_dir():
        model = max(model.glob("model_*.pt"), key=lambda path: int(path.stem.partition("_")[2]))
    diffusion, config = load_diffusion(model, device=device)
    vocoder = load_vocoder(data / config.vocoder.ckpt, kind=config.vocoder.type, device=device)
    return Nets(diffusion, vocoder, config, device)


@torch.inference_mode()
def load_clips(nets: Nets, data: Path, count: int) -> list[Clip]:
    """Load held-out clips, evenly over the list."""
    paths = read_filelist(data / nets.config.data.validation_files)
    count = min(count, len(paths))
    found = []
    for path in (Path(paths[number * len(paths) // count]) for number in range(count)):
        wav = path if path.is_absolute() else data / path
        mel = torch.from_numpy(load_mels(wav)[0]).T[None, :, :_MAX_FRAMES]
        n_frames = mel.shape[2]
        track = load_f0(wav)
        volume = load_volume(wav, len(track))
        if volume is None:
            raise SystemExit(f"{wav} has no .vol.npy beside it: run  svc preprocess --use_diff")
        f0 = torch.from_numpy(np.asarray(track.f0, np.float32))[None, :n_frames]
        units = expand_units(
            load_units(wav)[None], len(track), nets.config.data.unit_interpolate_mode
        )
        speaker = nets.config.spk.get(wav.parent.name, 0)
        mel, f0 = mel.to(nets.device), f0.to(nets.device)
        draws = torch.Generator().manual_seed(1)
        start = nets.vocoder.mel(nets.vocoder(mel, f0, generator=draws))
        found.append(
            Clip(
                mel,
                units[..., :n_frames].transpose(1, 2).to(nets.device),
                f0,
                torch.from_numpy(volume)[None, :n_frames].to(nets.device),
                torch.tensor([speaker], device=nets.device),
                start,
            )
        )
    return found


def refine(nets: Nets, clip: Clip, method: str, speedup: int, seed: int = 0) -> Tensor:
    """Refine a clip: always from the same noise; `seed` decides what ddpm draws after it."""
    noise = torch.randn(
        (1, 1, *clip.start.shape[1:]), generator=torch.Generator().manual_seed(52468)
    )
    return nets.diffusion.infer(
        clip.units,
        clip.f0,
        clip.volume,
        clip.speaker,
        mel=clip.start,
        k_step=min(K_STEP, nets.diffusion.k_step_max),
        method=method,
        speedup=speedup,
        noise=noise,
        generator=torch.Generator().manual_seed(seed),
    )


def distance(one: Tensor, other: Tensor) -> float:
    """Mean |difference| of natural-log mels."""
    return float((one - other).abs().mean())


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def detail(mel: Tensor) -> float:
    """How much a mel changes from frame to frame, mean |difference|: noise has much, a blur little."""
    return float(mel.diff(dim=2).abs().mean())


@torch.inference_mode()
def quality_table(nets: Nets, clips: Sequence[Clip], *, seeds: int) -> Table:
    """How far each sampler at n evaluations is from ddpm and from its own limit, and its detail."""
    k_step = min(K_STEP, nets.diffusion.k_step_max)
    runs = [[refine(nets, clip, "ddpm", 1, seed) for seed in range(seeds)] for clip in clips]
    limits = [refine(nets, clip, _LIMIT, 2) for clip in clips]
    pairs = [pair for same in runs for pair in itertools.combinations(same, 2)]
    truth = mean(detail(clip.mel) for clip in clips)

    def told(made: Sequence[Tensor]) -> str:
        to_ddpm = mean(distance(mel, other) for mel, same in zip(made, runs) for other in same)
        to_limit = mean(distance(*pair) for pair in zip(made, limits))
        return f"{to_ddpm:.3f} / {to_limit:.3f} / {mean(map(detail, made)) / truth:.2f}"

    counts = [n for n in EVALUATIONS if k_step // n >= 2]
    lines = [
        "| sampler | " + " | ".join(f"{n} steps" for n in counts) + " |",
        "| --- |" + " ---: |" * len(counts),
    ]
    for method in METHODS[1:]:
        cells = [told([refine(nets, clip, method, k_step // n) for clip in clips]) for n in counts]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    first = [same[0] for same in runs]
    starts = [clip.start for clip in clips]
    facts = (
        f"{len(clips)} held-out clips, k_step {k_step}. Each cell: distance to ddpm, distance to the "
        f"limit of many steps ({_LIMIT}, {k_step // 2}), both as mean difference of natural-log mels; "
        "detail, the mean change from frame to frame, as a share of the recording's. Two runs of ddpm "
        f"are {mean(distance(*pair) for pair in pairs):.3f} apart, ddpm is "
        f"{mean(distance(*pair) for pair in zip(first, limits)):.3f} from the limit and has "
        f"{mean(map(detail, first)) / truth:.2f} of the detail. The mel that is refined: "
        f"{told(starts)}."
    )
    return lines, facts


@torch.inference_mode()
def precision_table(nets: Nets, clips: Sequence[Clip]) -> Table:
    """What half precision changes: the mel of the denoiser, and the wav of the vocoder and of both."""
    speedup = max(1, min(K_STEP, nets.diffusion.k_step_max) // 10)
    exact = [refine(nets, clip, "dpm-solver++", speedup) for clip in clips]
    wavs = [_sung(nets, mel, clip) for mel, clip in zip(exact, clips)]
    lines = [
        "| precision | mel of the denoiser, mean (95 %) | wav, vocoder alone | wav, both | its mel |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        low = Nets(
            copy.deepcopy(nets.diffusion), copy.deepcopy(nets.vocoder), nets.config, nets.device
        )
        low.diffusion.settle(dtype)
        low.vocoder.settle(dtype)
        mels = [refine(low, clip, "dpm-solver++", speedup) for clip in clips]
        away = torch.cat([(one - other).abs().flatten() for one, other in zip(mels, exact)])
        vocoder = [_sung(low, mel, clip) for mel, clip in zip(exact, clips)]
        both = [_sung(low, mel, clip) for mel, clip in zip(mels, clips)]
        heard = mean(
            distance(nets.vocoder.mel(one), nets.vocoder.mel(other))
            for one, other in zip(both, wavs)
        )
        cells = [
            name,
            f"{float(away.mean()):.4f} ({float(np.quantile(away.cpu().numpy(), 0.95)):.4f})",
            f"{mean(_snr(one, other) for one, other in zip(vocoder, wavs)):.0f} dB",
            f"{mean(_snr(one, other) for one, other in zip(both, wavs)):.0f} dB",
            f"{heard:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    facts = (
        "Against float32 on the same clips, the same draws: mean difference of natural-log mels, and "
        "signal over difference of the wav."
    )
    return lines, facts


def _sung(nets: Nets, mel: Tensor, clip: Clip) -> Tensor:
    wav: Tensor = nets.vocoder(mel, clip.f0, generator=torch.Generator().manual_seed(2))
    return wav


def _snr(found: Tensor, expected: Tensor) -> float:
    """Signal over deviation, dB."""
    return float(10 * torch.log10(expected.var() / (found - expected).var()))
