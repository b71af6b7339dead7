"""Steps per second of training a voice, as Markdown tables for docs/training.md.

    python scripts/bench/train.py --threads 1 2 --out docs/training.md
    python scripts/bench/train.py --full --device cuda --compile --out docs/training.md
    python scripts/bench/train.py --quick

The baseline is the plain step of scripts/bench/train_plain.py, the original's operations in float32.
Each of our options is measured alone on top of it, then all of them together. Every row is a process
of its own, on the same made-up recordings; the rows are measured in turns, several times, and the
table has the medians, so that a machine's moods fall on all of them. Leave it alone all the same;
where that cannot be, `--clock cpu` with one thread counts the processor's time instead of the wall's.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from doc_section import write_section
from train_data import config_of, write_dataset

from svc.devices import best_precision

ROW = Path(__file__).with_name("train_row.py")
SMALL, FULL = "template_quick.json", "template.json"


@dataclass(frozen=True)
class Row:
    """What is measured."""

    label: str
    ours: bool = False
    options: Mapping[str, bool] = field(default_factory=dict)
    """Of the plain step."""
    packed: bool = False
    """Clips as `svc train` reads them, else from their own files."""
    precision: str = "fp32"
    """Of ours."""
    compiled: bool = False
    """Of ours."""


def rows(device: str, *, compiled: bool) -> list[Row]:
    """The plain step, every option alone, and all together."""
    half = best_precision(torch.device(device)) != "fp32"
    alone = {
        "real and fake in one batch (discriminator's step)": "one_pass",
        "discriminator frozen in the generator's step": "frozen",
        "fused AdamW": "fused",
        "one gradient norm": "one_norm",
        "mel of the windows only": "windows",
        "channels last": "channels_last",
        **({"bf16": "bf16"} if half else {}),
    }
    together = {name: True for name in alone.values() if name != "bf16"}
    found = [
        Row("plain"),
        *(Row(label, options={name: True}) for label, name in alone.items()),
        Row("clips from the pack", packed=True),
        Row("all of these but bf16", options=together, packed=True),
        Row("svc train", ours=True, packed=True),
    ]
    if half:
        found += [Row("svc train, bf16", ours=True, packed=True, precision="bf16")]
    if compiled:
        best = "bf16" if half else "fp32"
        found += [Row(f"svc train, {best}, --compile", True, {}, True, best, True)]
    return found


def ask(order: dict[str, Any], seconds: float) -> dict[str, float]:
    """Measure a row once.

    Raises:
        RuntimeError: it failed; says how.
    """
    result = subprocess.run(
        [sys.executable, str(ROW), json.dumps(order)],
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{order['row']['label']}: {last}")
    answer: dict[str, float] = json.loads(result.stdout.strip().splitlines()[-1])
    return answer


def measure(
    table: Sequence[Row], order: dict[str, Any], rounds: int
) -> list[list[dict[str, float]]]:
    """Measure all rows in turns; one list per row."""
    answers: list[list[dict[str, float]]] = [[] for _ in table]
    for number in range(rounds):
        for row, found in zip(table, answers, strict=True):
            print(f"round {number + 1}: {row.label}", file=sys.stderr, flush=True)
            found.append(ask({**order, "row": asdict(row)}, order["limit"]))
    return answers


def figures(table: Sequence[Row], answers: list[list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians over the rounds; a gain is that over the plain step of the same round."""
    plain = [answer["steps"] / answer["seconds"] for answer in answers[0]]
    lines = []
    for row, found in zip(table, answers, strict=True):
        speeds = [answer["steps"] / answer["seconds"] for answer in found]
        lines.append(
            {
                "row": row.label,
                "steps_per_s": statistics.median(speeds),
                "gain": statistics.median(s / p for s, p in zip(speeds, plain, strict=True)),
                "clips_per_s": statistics.median(a["clips"] / a["seconds"] for a in found),
                "audio_s_per_s": statistics.median(a["audio"] / a["seconds"] for a in found),
                "peak_bytes": max(answer["peak"] for answer in found),
                "waiting": statistics.median(answer["waiting"] for answer in found),
            }
        )
    return lines


def markdown(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    text = [
        "| | steps/s | times plain | clips/s | audio s/s | peak MB | waiting for data |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in lines:
        cells = [
            line["row"],
            f"{line['steps_per_s']:.3g}",
            f"{line['gain']:.2f}",
            f"{line['clips_per_s']:.3g}",
            f"{line['audio_s_per_s']:.3g}",
            f"{line['peak_bytes'] / 1e6:.0f}",
            f"{line['waiting']:.1%}",
        ]
        text.append(f"| {' | '.join(cells)} |")
    return text


def machine(device: str, threads: int, clock: str) -> str:
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    model = next(
        (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line),
        platform.processor() or platform.machine(),
    )
    units = torch.backends.cpu.get_cpu_capability() + (", AMX" if "amx_bf16" in text else "")
    counted = "; processor time, on a machine with other work" if clock == "cpu" else ""
    plural = "s" if threads > 1 else ""
    return f"{model} ({units}), {threads} thread{plural}, torch {torch.__version__}{counted}"


# ------------------------------------------------------------------------------------------ main


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument("--full", action="store_true", help="the original's default config")
    parser.add_argument("--batch_sizes", nargs="+", type=int, help="default: 6; 6 24 with --full")
    parser.add_argument("--compile", action="store_true", help="a row with svc train --compile")
    parser.add_argument("--rounds", type=int, help="times that every row is measured (default: 3)")
    parser.add_argument("--steps", type=int, help="steps of a row (default: 5, 20 on cuda)")
    parser.add_argument("--workers", type=int, help="loader processes (default: as svc train)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for one thread only"
    )
    parser.add_argument("--limit", type=float, default=3600, help="seconds that a row may take")
    parser.add_argument("--quick", action="store_true", help="one round of two steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, too")
    parser.add_argument("--out", type=Path, help="write the sections of this document")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(arguments)
    kind = args.device.partition(":")[0]
    if args.clock == "cpu" and (args.threads != [1] or kind != "cpu"):
        parser.error("--clock cpu counts the time of one thread: add --threads 1 --device cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing is measured")
        return 0
    template = FULL if args.full else SMALL
    sizes = args.batch_sizes or ([6, 24] if args.full else [6])
    steps = args.steps or (2 if args.quick else 20 if kind == "cuda" else 5)
    table = rows(args.device, compiled=args.compile)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        seconds = (5.0, 12.0) if args.full else (2.0, 6.0)
        write_dataset(Path(folder), config_of(template, 1), 48 if args.full else 24, seconds)
        for threads in args.threads if kind == "cpu" else args.threads[:1]:
            for size in sizes:
                order = {
                    "folder": folder, "template": template, "batch_size": size, "steps": steps,
                    "device": args.device, "threads": threads, "clock": args.clock,
                    "warm_up": 1 if args.quick else 5 if kind == "cuda" else 2,
                    "workers": args.workers, "limit": args.limit,
                }  # fmt: skip
                answers = measure(table, order, args.rounds or (1 if args.quick else 3))
                lines = figures(table, answers)
                words = ["speed", kind, *([str(threads)] if kind == "cpu" else [])]
                words += ["full" if args.full else "small", str(size)]
                where = machine(args.device, threads, args.clock)
                head = f"{template}, batches of {size} clips. {where}."
                text = "\n".join([head, "", *markdown(lines)])
                found[" ".join(words)] = {"machine": where, "rows": lines}
                print(f"\n{' '.join(words)}\n\n{text}", flush=True)
                if args.out:  # what is measured is kept, should the rest be interrupted
                    write_section(args.out, " ".join(words), text)
                if args.json:
                    args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
