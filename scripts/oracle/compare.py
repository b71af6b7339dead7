"""Compare one net, read and run by svc, with the arrays of `build.py`.

    python compare.py CASE FOLDER CLIPS.npz RESULT.json

Runs in the project's environment. The figures are largest absolute differences over the clips:

    taps[tap]           from the other project's float32 output
    rms                 the same, root of the mean square over the frames and channels of a tap
    ids[id]             the same, through `build_speech_encoder` and `encode`
    rounding.theirs     of the other project's float32 output from its own float64 output
    rounding.ours       of our float32 output from it
    float64             of our float64 output from it: what is not rounding
    scale               largest absolute value of the outputs
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import CASES, END, Case, Tap, label
from nets import exact
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from svc.audio.mel import whisper_mel
from svc.speech.base import build_speech_encoder
from svc.speech.wave_files import load_wave_net
from svc.speech.whisper import load_whisper

Arrays = Any  # an open npz file, or a dict of arrays


def difference(found: Tensor | np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference; shapes must be the same and every value finite."""
    ours = np.asarray(found, dtype=np.float64)
    if ours.shape != expected.shape:
        raise ValueError(f"our output is {ours.shape}, the expected one {expected.shape}")
    worst = float(np.abs(ours - expected).max())
    return worst if np.isfinite(worst) else float("inf")


def rms(found: Tensor | np.ndarray, expected: np.ndarray) -> float:
    """Root of the mean squared difference."""
    ours = np.asarray(found, dtype=np.float64)
    return float(np.sqrt(np.mean((ours - expected) ** 2)))


def _peak() -> float:
    """Largest memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _read(case: Case, path: Path) -> nn.Module:
    return load_whisper(path) if case.maker == "whisper" else load_wave_net(path)


def _run(net: nn.Module, case: Case, value: Tensor, n_frames: int, tap: Tap) -> Tensor:
    """One tap of our net: (1, T) wave or (1, M, 3000) mel -> (S, C)."""
    if case.maker == "whisper":
        return net(value, n_frames)[0]
    layer, project = tap
    hidden = net(value, layer)
    return (net.final_projection(hidden) if project else hidden)[0]


def same_net(first: nn.Module, second: nn.Module) -> bool:
    """Whether two nets have the same sizes and, bit for bit, the same tensors."""
    one, two = first.state_dict(), second.state_dict()
    return (
        first.config == second.config
        and one.keys() == two.keys()
        and all(torch.equal(one[name], two[name]) for name in one)
    )


def _wave(clip: np.ndarray, case: Case) -> Tensor:
    wave = torch.from_numpy(clip)[None]
    if case.normalize:
        wave = torch.nn.functional.layer_norm(wave, wave.shape)
    return torch.nn.functional.pad(wave, (case.padding, case.padding))


def _inputs(clips: Arrays, expected: Arrays, case: Case) -> dict[str, tuple[Tensor, int]]:
    """What the net takes, and how many frames of Whisper's are wanted, by clip."""
    if case.maker != "whisper":
        return {clip: (_wave(clips[clip], case), 0) for clip in clips}
    return {
        clip: (torch.from_numpy(expected[f"{clip}/mel"])[None], len(clips[clip]) // 320)
        for clip in clips
    }


def _expected(expected: Arrays, clip: str, tap: Tap, bits: int, n_frames: int) -> np.ndarray:
    array: np.ndarray = expected[f"{clip}/{label(tap)}/{bits}"]
    return array[:n_frames] if n_frames else array


def _mel(clips: Arrays, expected: Arrays) -> float:
    """Largest difference of the log-mel."""
    worst = 0.0
    for clip in clips:
        whole = np.zeros((1, 480000), np.float32)
        whole[0, : len(clips[clip])] = clips[clip]
        theirs = expected[f"{clip}/mel"]
        worst = max(worst, difference(whisper_mel(len(theirs))(torch.from_numpy(whole))[0], theirs))
    return worst


@torch.no_grad()
def compare(case: Case, clips: Arrays, expected: Arrays) -> dict[str, Any]:
    """All figures of a case; see the head of this file."""
    paths = [Path(name) for name in expected["files"].tolist()]
    clips = {name: clips[name] for name in clips}
    before = _peak()
    net = _read(case, paths[0])
    own = sum(value.numel() * value.element_size() for value in net.state_dict().values()) / 2**20
    result: dict[str, Any] = {"reading_mb": max(0.0, _peak() - before - own), "net_mb": own}
    if not all(same_net(net, _read(case, path)) for path in paths[1:]):
        raise ValueError("the files of the case, which hold one net, are read as different ones")
    if case.maker != "whisper" and net.config.normalize_wave != case.normalize:
        raise ValueError(f"normalize_wave is read as {net.config.normalize_wave}")
    inputs = _inputs(clips, expected, case)

    taps: dict[str, float] = {}
    rounding = {"ours": 0.0, "theirs": 0.0}
    scale = typical = 0.0
    for clip, (value, n_frames) in inputs.items():
        for tap in case.taps:
            found = _run(net, case, value, n_frames, tap)
            theirs, truth = (_expected(expected, clip, tap, bits, n_frames) for bits in (32, 64))
            key = label(tap)
            taps[key] = max(taps.get(key, 0.0), difference(found, theirs))
            typical = max(typical, rms(found, theirs))
            rounding["ours"] = max(rounding["ours"], difference(found, truth))
            rounding["theirs"] = max(rounding["theirs"], difference(theirs, truth))
            scale = max(scale, float(np.abs(truth).max()))
    clip = next(iter(inputs))
    start = time.perf_counter()
    _run(net, case, *inputs[clip], END)
    result["seconds"] = {
        "ours": time.perf_counter() - start,
        "theirs": float(expected[f"{clip}/seconds"]),
    }
    result |= {"taps": taps, "rounding": rounding, "rms": typical, "scale": scale}
    result["ids"] = {
        name: _through_encoder(name, tap, paths[0], clips, expected)
        for name, tap in case.ids.items()
    }
    if case.maker == "whisper":
        result["mel"] = _mel(clips, expected)

    net.double()
    if "position" in expected:
        # Ours is folded once, in float32: checked against the exact one, then replaced by it.
        exact_weight = torch.from_numpy(expected["position"])
        result["fold"] = difference(net.position.weight, exact_weight.numpy())
        net.position.weight.data = exact_weight
    worst = 0.0
    with exact():
        for clip, (value, n_frames) in inputs.items():
            for tap in case.taps:
                found = _run(net, case, value.double(), n_frames, tap)
                truth = _expected(expected, clip, tap, 64, n_frames)
                worst = max(worst, difference(found, truth))
    result["float64"] = worst
    return result


def _through_encoder(name: str, tap: Tap, path: Path, clips: Arrays, expected: Arrays) -> float:
    """Largest difference of what the encoder gives for the bare clips."""
    encoder = build_speech_encoder(name, path=path)
    worst = 0.0
    for clip in clips:
        units = encoder.encode(torch.from_numpy(clips[clip]))[0].T
        n_frames = len(clips[clip]) // 320 if f"{clip}/mel" in expected else 0
        worst = max(worst, difference(units, _expected(expected, clip, tap, 32, n_frames)))
    return worst


def main(arguments: list[str]) -> None:
    name, folder, clips, result = arguments
    with np.load(clips) as waves, np.load(Path(folder) / "expected.npz") as expected:
        figures = compare(CASES[name], dict(waves), expected)
    Path(result).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
