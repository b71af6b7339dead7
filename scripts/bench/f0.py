"""Seconds of work per second of audio of every pitch predictor, as Markdown tables for docs/f0.md.

    python scripts/bench/f0.py --threads 1 2 --out docs/f0.md
    python scripts/bench/f0.py --device cuda --out docs/f0.md
    python scripts/bench/f0.py --quick

The baseline is measured in the same run, in turns with ours: the plain paths of
scripts/bench/f0_plain.py. rmvpe has its real size and random weights unless --pretrain_dir has a real
rmvpe.pt. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import numpy.typing as npt
import torch
from doc_section import write_section
from f0_plain import plain_path, rmvpe_state

from svc.config import SINGLE_PREDICTORS
from svc.demo.dataset import sing_song
from svc.f0 import build_f0_predictor
from svc.f0.rmvpe_net import RmvpeConfig
from svc.f0.settings import F0Settings

Samples = npt.NDArray[np.float32]
Work = Callable[[], object]

NAMES = (*SINGLE_PREDICTORS, "ensemble")
QUICK = ("pm", "dio", "crepe-tiny", "fcpe", "swift", "ensemble")
SR = 44100  # Hz
HOP = 512  # samples
WARM_UP = 1.0  # seconds of audio


def song(seconds: float) -> Samples:
    """The synthetic song, as often as it takes."""
    once = sing_song(seed=0).wav
    return np.resize(once, round(seconds * SR))


def clip_lengths(count: int) -> list[float]:
    """Lengths of a data set's clips, 2-10 s, in no order."""
    return [round(2 + 8 * ((0.618 * index) % 1), 2) for index in range(1, count + 1)]


def fastest(works: Sequence[Work], runs: int) -> list[float]:
    """Least seconds of each, taken in turns."""
    best = [float("inf")] * len(works)
    for _ in range(runs):
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def rows(name: str, pretrain_dir: Path, args: argparse.Namespace) -> list[str]:
    """One row per input: real-time factors, and how many times as fast ours is."""
    settings = F0Settings(SR, HOP)
    ours = build_f0_predictor(
        name, sampling_rate=SR, hop_length=HOP, device=args.device, pretrain_dir=pretrain_dir
    )
    plain = plain_path(name, settings, device=args.device, pretrain_dir=pretrain_dir)
    ours(song(WARM_UP))
    if plain is not None:
        plain(song(WARM_UP))
    lines = []
    slowest = 0.0  # real-time factor of the plain path so far
    jobs = [(f"{seconds:g} s", [seconds]) for seconds in sorted(args.seconds)]
    if args.clips:
        jobs.append((f"{args.clips} clips", clip_lengths(args.clips)))
    for label, lengths in jobs:
        print(f"{name}: {label}", file=sys.stderr, flush=True)
        waves = [song(seconds) for seconds in lengths]
        total = sum(lengths)
        works: list[Work] = [lambda waves=waves: ours.track_batch(waves)]  # type: ignore[misc]
        compared = plain is not None and slowest * total <= args.limit
        if plain is not None and compared:
            works.append(lambda waves=waves: [plain(wav) for wav in waves])  # type: ignore[misc]
        seconds = fastest(works, 1 if args.quick or total > 100 else 3)
        factors = [value / total for value in seconds]
        if compared:
            slowest = max(slowest, factors[1])
        cells = [name, label, f"{factors[1]:.3f}" if compared else "-", f"{factors[0]:.3f}"]
        cells.append(f"{factors[1] / factors[0]:.1f}" if compared else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def machine(args: argparse.Namespace, threads: int) -> str:
    if args.device.startswith("cuda"):
        where = torch.cuda.get_device_name(args.device)
    else:
        info = Path("/proc/cpuinfo")
        text = info.read_text() if info.is_file() else ""
        model = next(
            (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line),
            platform.processor() or platform.machine(),
        )
        where = f"{model} ({torch.backends.cpu.get_cpu_capability()})"
    return f"{where}, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--predictors", nargs="+", metavar="ID", help=f"default: {', '.join(NAMES)}"
    )
    parser.add_argument("--seconds", nargs="+", type=float, help="inputs (default: 10 600)")
    parser.add_argument("--clips", type=int, help="short clips, 2-10 s each (default: 24)")
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument("--device", default="cpu", help="of the nets: cpu or cuda (default: cpu)")
    parser.add_argument(
        "--limit",
        type=float,
        default=900,
        help="leave out plain paths that would take more seconds",
    )
    parser.add_argument("--pretrain_dir", type=Path, default=Path("pretrain"), help="for rmvpe.pt")
    parser.add_argument(
        "--quick", action="store_true", help="some predictors, short input, one run"
    )
    parser.add_argument("--out", type=Path, help="write the sections of this document")
    args = parser.parse_args(arguments)
    args.seconds = args.seconds or ([3.0] if args.quick else [10.0, 600.0])
    args.clips = (0 if args.quick else 24) if args.clips is None else args.clips
    names = args.predictors or list(QUICK if args.quick else NAMES)
    with tempfile.TemporaryDirectory() as folder:
        pretrain_dir = args.pretrain_dir
        if "rmvpe" in names and not (pretrain_dir / "rmvpe.pt").is_file():
            pretrain_dir = Path(folder)
            torch.save({"model": rmvpe_state(RmvpeConfig())}, pretrain_dir / "rmvpe.pt")
        for threads in args.threads:
            torch.set_num_threads(threads)
            lines = ["| predictor | input | plain | ours | plain / ours |"]
            lines += ["| --- | --- | ---: | ---: | ---: |"]
            kind = args.device.partition(":")[0]
            section = f"speed {kind} {threads}" if kind == "cpu" else f"speed {kind}"
            text = ""
            for name in names:
                lines += rows(name, pretrain_dir, args)
                text = "\n".join([f"{machine(args, threads)}.", "", *lines])
                if args.out:  # what is measured is kept, should the rest be interrupted
                    write_section(args.out, section, text)
            print(f"\n{section}\n\n{text}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
