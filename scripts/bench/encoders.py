"""Seconds of audio per second and peak memory of every content encoder, as Markdown tables.

    python scripts/bench/encoders.py --threads 2 --shared ../shared --out docs/encoders.md
    python scripts/bench/encoders.py --hour --encoders vec768l12 whisper-ppg-tiny
    python scripts/bench/encoders.py --quick

The baseline is measured in the same run: the plain path of scripts/bench/plain.py. Nets have their
real sizes and random weights (whisper-ppg-tiny: its own). Each encoder and variant runs in a process
of its own; leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from doc_section import write_section
from nets import NAMES

WORKER = Path(__file__).with_name("worker.py")
SHARED = Path(__file__).resolve().parents[3] / "shared"
QUICK = ("vec768l12", "whisper-ppg-tiny")
HOUR = 3600.0  # seconds
Answers = dict[str, dict[str, Any]]  # by the label of the job
NOT_MEASURED: dict[str, Any] = {"skipped": "-"}


def clip_lengths(count: int) -> list[float]:
    """Lengths of a data set's clips, 2-10 s, in no order."""
    return [round(2 + 8 * ((0.618 * index) % 1), 2) for index in range(1, count + 1)]


def ask(order: Mapping[str, Any], timeout: float) -> list[dict[str, Any]]:
    """Run a worker; what it answered until it ended, was ended or took too long."""
    command = [sys.executable, str(WORKER), json.dumps(order)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(order["threads"])}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        output, trouble = done.stdout, done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        trouble = f"stopped after {timeout:.0f} s"
    if trouble:
        who = f"{order['name']} {order.get('variant', order['kind'])}"
        print(f"{who}: {trouble.strip().splitlines()[-1]}", file=sys.stderr)
    return [json.loads(line) for line in output.splitlines()]


def measure(
    name: str, variant: str, jobs: Sequence[Mapping[str, Any]], args: argparse.Namespace
) -> Answers:
    order = {
        "kind": "measure",
        "name": name,
        "variant": variant,
        "jobs": jobs,
        "device": args.device,
        "threads": args.threads,
        "runs": 1 if args.quick or args.hour else 4,
        "limit": args.limit,
    }
    print(f"{name}: {variant}", file=sys.stderr, flush=True)
    answers = {item["job"]: item for item in ask(order, 300 + 5 * args.limit * len(jobs))}
    return {job["label"]: answers.get(job["label"], {"skipped": "failed"}) for job in jobs}


# ---------------------------------------------------------------------------------------- tables


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def header(cells: Sequence[str], words: int) -> list[str]:
    return [row(cells), row(["---"] * words + ["---:"] * (len(cells) - words))]


def speed(answer: Mapping[str, Any]) -> str:
    return answer.get("skipped") or f"{answer['audio'] / answer['seconds']:.1f}"


def memory(*answers: Mapping[str, Any]) -> str:
    peaks = [answer["peak"] for answer in answers if "peak" in answer]
    return f"{max(peaks) / 1e9:.2f}" if peaks else "-"


def gain(plain: Mapping[str, Any], *ours: Mapping[str, Any]) -> str:
    times = [answer["seconds"] for answer in ours if "seconds" in answer]
    return f"{plain['seconds'] / min(times):.2f}" if times and "seconds" in plain else "-"


def speed_table(args: argparse.Namespace) -> list[str]:
    low = args.low
    lines = header(
        [
            "encoder", "input", "plain", "ours", f"ours {low}", "ours / plain", f"{low} / plain",
            "plain GB", "ours GB", f"{low} GB",
        ],
        words=2,
    )  # fmt: skip
    alone = [
        {"label": f"{seconds:g} s", "seconds": [seconds], "batch": False}
        for seconds in sorted(args.seconds)
    ]
    lengths = clip_lengths(args.clips)
    each = {"label": f"{args.clips} clips", "seconds": lengths, "batch": False}
    together = {**each, "label": f"{args.clips} clips, batched", "batch": True}
    for name in args.encoders:
        plain = measure(name, "plain", [each, *alone], args)
        ours = measure(name, "fp32", [each, together, *alone], args)
        half = measure(name, low, [each, together, *alone], args)
        plain[together["label"]] = plain[each["label"]]  # the plain path has no batches
        for job in (*alone, each, together):
            label = job["label"]
            p, o, h = plain[label], ours[label], half[label]
            cells = [speed(p), speed(o), speed(h), gain(p, o), gain(p, h)]
            lines.append(row([name, label, *cells, memory(p), memory(o), memory(h)]))
    return lines


def deviation_table(args: argparse.Namespace) -> list[str]:
    parts = {
        "plain": "ours from plain",
        "batch": "batch from one by one",
        "windows": "60 s: windows from whole",
        "bf16": "bf16 from fp32",
        "fp16": "fp16 from fp32",
    }
    lines = header(["encoder", *parts.values()], words=1)
    for name in args.encoders:
        print(f"{name}: deviations", file=sys.stderr, flush=True)
        order = {"kind": "deviate", "name": name, "device": args.device, "threads": args.threads}
        answers = ask({**order, "shared": str(args.shared)}, 300 + 10 * args.limit)
        found = answers[0] if answers else {}
        cells = [
            f"{found[part]['rms']:.1e}, {found[part]['max']:.1e}" if part in found else "-"
            for part in parts
        ]
        lines.append(row([name, *cells]))
    return lines


def hour_table(args: argparse.Namespace) -> tuple[list[str], bool]:
    """Return the rows, and whether every encoder stayed below 2 GB beyond its model."""
    lines = header(["encoder", "audio s per s", "GB beyond the model"], words=1)
    job = {"label": "hour", "seconds": [HOUR], "batch": False}
    good = True
    for name in args.encoders:
        answer = measure(name, "fp32", [job], args)["hour"]
        beyond = answer.get("beyond", float("inf"))
        good &= beyond < 2e9
        shown = f"{beyond / 1e9:.2f}" if "beyond" in answer else "-"
        lines.append(row([name, speed(answer), shown]))
    return lines, good


def machine(args: argparse.Namespace) -> str:
    if args.device.startswith("cuda"):
        where = torch.cuda.get_device_name(args.device)
    else:
        info = Path("/proc/cpuinfo")
        text = info.read_text() if info.is_file() else ""
        model = next(
            (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line),
            platform.processor() or platform.machine(),
        )
        units = torch.backends.cpu.get_cpu_capability() + (", AMX" if "amx_bf16" in text else "")
        where = f"{model} ({units}), {args.threads} threads"
    return f"{where}, torch {torch.__version__}"


# ------------------------------------------------------------------------------------------ main


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoders", nargs="+", choices=NAMES, metavar="ID", help=", ".join(NAMES))
    parser.add_argument("--seconds", nargs="+", type=float, help="inputs (default: 10 60 600)")
    parser.add_argument("--clips", type=int, help="short clips, 2-10 s each (default: 24)")
    parser.add_argument("--low", choices=("bf16", "fp16"), default="bf16", help="lower precision")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--limit", type=float, default=900, help="leave out what would take more seconds than this"
    )
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(os.environ.get("SVC_SHARED", SHARED)),
        help="folder with audio/speech; without it no deviations",
    )
    parser.add_argument("--hour", action="store_true", help="only the memory of 60 minutes")
    parser.add_argument("--quick", action="store_true", help="two encoders, short inputs, one run")
    parser.add_argument("--out", type=Path, help="write the sections of this document")
    return parser


def main(arguments: list[str] | None = None) -> int:
    args = build_parser().parse_args(arguments)
    args.encoders = args.encoders or list(QUICK if args.quick else NAMES)
    args.seconds = args.seconds or ([10.0, 40.0] if args.quick else [10.0, 60.0, 600.0])
    args.clips = args.clips or (4 if args.quick else 24)
    kind = args.device.partition(":")[0]
    sections: dict[str, list[str]] = {}
    good = True
    if args.hour:
        sections[f"hour {kind}"], good = hour_table(args)
    else:
        sections[f"speed {kind}"] = speed_table(args)
        if args.shared.is_dir():
            sections[f"deviation {kind}"] = deviation_table(args)
        else:
            print(f"{args.shared} is not there: no deviations", file=sys.stderr)
    for name, lines in sections.items():
        text = "\n".join([f"{machine(args)}.", "", *lines])
        print(f"\n{name}\n\n{text}")
        if args.out:
            write_section(args.out, name, text)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
