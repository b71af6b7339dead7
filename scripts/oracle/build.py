"""Build one net of another project, save it in its own format and run it on the clips.

    python build.py CASE FOLDER CLIPS.npz SHARED

Runs in the oracle's environment (scripts/oracle.sh). Into FOLDER go the files of the net and
`expected.npz`:

    CLIP/TAP/32, CLIP/TAP/64    (S, C) outputs in float32 and float64
    CLIP/mel                    (M, 3000) input of Whisper's net, float32
    CLIP/seconds                of the float32 run to the end of the net
    position                    weight of the positional convolution, its norm folded in float64
    files                       names of the files, in the order of the case
"""

from __future__ import annotations

import importlib
import inspect
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cases import CASES, END, Case, label
from nets import SEED, Net, exact
from torch import Tensor


def _build(name: str, case: Case, shared: Path) -> Net:
    torch.manual_seed(SEED)
    build = importlib.import_module(f"make_{case.maker}").build
    return build(name, shared) if len(inspect.signature(build).parameters) > 1 else build(name)


def _wave(clip: np.ndarray, case: Case) -> Tensor:
    wave = torch.from_numpy(clip)[None]
    if case.normalize:
        wave = F.layer_norm(wave, wave.shape)
    return F.pad(wave, (case.padding, case.padding))


@torch.no_grad()
def main(arguments: list[str]) -> None:
    name, folder, shared = arguments[0], Path(arguments[1]), Path(arguments[3])
    clips = np.load(arguments[2])
    case = CASES[name]
    net = _build(name, case, shared)
    net.module.requires_grad_(False)
    arrays: dict[str, np.ndarray] = {}
    arrays["files"] = np.array([str(path) for path in net.save(folder)])
    inputs = {}
    for clip in clips.files:
        inputs[clip] = net.prepare(_wave(clips[clip], case))
        if case.maker == "whisper":
            arrays[f"{clip}/mel"] = inputs[clip][0].numpy()
        for tap, found in net.run(inputs[clip], case.taps).items():
            arrays[f"{clip}/{label(tap)}/32"] = found.numpy()
        start = time.perf_counter()
        net.run(inputs[clip], (END,))
        arrays[f"{clip}/seconds"] = np.array(time.perf_counter() - start)
    net.module.double()
    with exact():
        for clip, value in inputs.items():
            for tap, found in net.run(value.double(), case.taps).items():
                arrays[f"{clip}/{label(tap)}/64"] = found.numpy()
        if net.position is not None:
            arrays["position"] = net.position().numpy()
    np.savez(folder / "expected.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1:])
