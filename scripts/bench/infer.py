"""How fast songs are converted, stage by stage, as Markdown tables for docs/performance.md.

    python scripts/bench/infer.py --threads 2 1 --out docs/performance.md
    python scripts/bench/infer.py --device cuda --compile --out docs/performance.md
    python scripts/bench/infer.py --quick

The baseline is the plain path of scripts/bench/infer_plain.py, so-vits-svc 4.1's operations in float32.
Each optimisation is measured alone on top of it, then `svc infer` as a whole. Every row is a process of
its own on as many cores as it has threads; the rows are measured in turns, several times, and the tables
have the medians, so that a machine's moods fall on all of them. Songs of a minute and more are sung once,
by the rows that matter. Nets have the sizes of the default config and made-up weights: speed does not
depend on them. Leave the machine alone all the same; where that cannot be, `--clock cpu` with one thread
counts the processor's time instead of the wall's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from doc_section import write_section
from infer_rows import net_rows, rows
from infer_song import sung, write_song, write_voice
from infer_tables import net_figures, net_table, song_figures, song_tables
from train import machine

from svc.audio.io import read_audio
from svc.demo.singer import SAMPLING_RATE

ROW = Path(__file__).with_name("infer_row.py")
LONG = 60.0  # seconds; from here on only the rows that matter, `--long_rounds` times
WARM_SECONDS = 2.5

Answer = dict[str, Any]
Figures = dict[str, Any]
Order = dict[str, Any]


def ask(order: Order, what: str) -> Answer:
    """Measure once.

    Raises:
        RuntimeError: it failed; says how.
    """
    result = subprocess.run(
        [sys.executable, str(ROW), json.dumps(order)],
        capture_output=True, text=True, timeout=order["limit"], check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(order["threads"])},
    )  # fmt: skip
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{what}: {last}")
    answer: Answer = json.loads(result.stdout.strip().splitlines()[-1])
    return answer


def in_turns(orders: Sequence[tuple[str, Order]], rounds: int) -> list[list[Answer]]:
    """Measure everything in turns; one list of answers, of all rounds, per order."""
    answers: list[list[Answer]] = [[] for _ in orders]
    for number in range(rounds):
        for (label, order), found in zip(orders, answers, strict=True):
            print(f"round {number + 1} of {rounds}: {label}", file=sys.stderr, flush=True)
            found.append(ask(order, label))
    return answers


class Bench:
    """What is the same for all tables.

    Args:
        args: of the command.
        folder: for songs and nets.
        publish: called with a section's name, its text and the figures in it.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        folder: Path,
        publish: Callable[[str, str, list[Figures]], None],
    ) -> None:
        self.args, self.folder, self.publish = args, folder, publish
        self.kind = args.device.partition(":")[0]
        write_voice(folder, quick=args.quick)
        if args.song is None:
            self.song = sung(max(args.seconds)), SAMPLING_RATE
        else:
            self.song = read_audio(args.song)
        write_song(folder / "warm.wav", *self.song, WARM_SECONDS)

    def order(self, threads: int, **more: object) -> Order:
        """An order for `infer_row.py`."""
        args = self.args
        return {
            "folder": str(self.folder), "device": args.device, "quick": args.quick,
            "threads": threads, "limit": args.limit, "clock": args.clock, "f0": args.f0_predictor,
            "index": None if args.index is None else str(args.index), **more,
        }  # fmt: skip

    def where(self, threads: int) -> str:
        """Which machine, for a table."""
        return machine(self.args.device, threads, self.args.clock)

    def words(self, *words: str, threads: int) -> str:
        """The name of a section."""
        place = [self.kind, *([str(threads)] if self.kind == "cpu" else [])]
        return " ".join([*words, *place])

    # ---- nets alone ------------------------------------------------------------------------------

    def nets(self, threads: int) -> None:
        """Seconds of every net, and the share of the machine's peak."""
        args = self.args
        table = [
            row for row in net_rows(args.device, compiled=args.compile) if self.chosen(row.label)
        ]
        size = 256 if args.quick else None
        orders = [("matrix products", self.order(threads, kind="peak", size=size))]
        for row in table:
            order = self.order(
                threads, kind="net", net=row.net, name=row.name, runs=1 if args.quick else 3,
                audio=0.5 if args.quick else 5.0,
            )  # fmt: skip
            orders.append((f"{row.net}, {row.label}", order))
        peaks, *answers = in_turns(orders, args.rounds)
        lines = net_figures(table, peaks, answers)
        text = net_table(lines, peaks, seconds=orders[1][1]["audio"])
        body = "\n".join([f"{self.where(threads)}.", "", *text])
        self.publish(self.words("nets", threads=threads), body, lines)

    # ---- songs -----------------------------------------------------------------------------------

    def songs(self, threads: int, seconds: float) -> None:
        """Convert a song in all ways."""
        args = self.args
        path, again = self.folder / "song.wav", self.folder / "again.wav"
        write_song(path, *self.song, seconds)
        write_song(again, 0.97 * self.song[0], self.song[1], seconds)
        long = seconds >= LONG
        table = [
            row for row in rows(args.device, compiled=args.compile)
            if self.chosen(row.label) and (row.always or not long or args.all_rows)
        ]  # fmt: skip
        orders = [
            (row.label, self.order(
                threads, kind="song", row=asdict(row), song=str(path), again=str(again)
            ))
            for row in table
        ]  # fmt: skip
        answers = in_turns(orders, args.long_rounds if long else args.rounds)
        name = f"{seconds:g} s" if seconds < LONG else f"{seconds / 60:g} min"
        lines = song_figures(table, answers)
        head = f"A song of {name}. {self.where(threads)}."
        body = "\n".join([head, "", *song_tables(lines, device=self.kind)])
        self.publish(self.words("song", str(round(seconds)), threads=threads), body, lines)

    def chosen(self, label: str) -> bool:
        """Whether a row is wanted."""
        words = self.args.rows
        if label == "plain":
            return not self.args.no_plain
        return words is None or any(word in label for word in words)


# ------------------------------------------------------------------------------------------ main


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flag = parser.add_argument
    flag("--seconds", nargs="+", type=float, help="songs (default: 10 240)")
    flag("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    flag("--device", default="cpu", help="cpu or cuda (default: cpu)")
    flag("--rounds", type=int, help="times that every row is measured (default: 3)")
    flag("--long_rounds", type=int, default=1, help="the same, songs of a minute on (default: 1)")
    flag("--rows", nargs="+", metavar="TEXT", help="only rows with one of these in their label")
    flag("--no_plain", action="store_true", help="leave out the plain path: no ratios")
    flag("--all_rows", action="store_true", help="long songs in all ways, too")
    flag("--no_nets", action="store_true", help="leave out the nets alone")
    flag("--compile", action="store_true", help="a row with --compile")
    flag("--f0_predictor", default="pm", help="an id of svc f0 (default: pm)")
    flag("--song", type=Path, help="an audio file (default: the demo singer)")
    flag("--index", type=Path, help="retrieve from a file of svc train-index or train-cluster")
    flag("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for one thread only")
    flag("--limit", type=float, default=7200, help="seconds that a row may take")
    flag("--quick", action="store_true", help="tiny nets, one round of a short song")
    flag("--json", type=Path, metavar="FILE", help="write the figures, too")
    flag("--out", type=Path, help="write the sections of this document")
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
    args.seconds = args.seconds or ([2.0] if args.quick else [10.0, 240.0])
    args.rounds = args.rounds or (1 if args.quick else 3)

    found: dict[str, list[Figures]] = {}

    def publish(section: str, text: str, lines: list[Figures]) -> None:
        print(f"\n{section}\n\n{text}", flush=True)
        found[section] = lines
        if args.out:  # what is measured is kept, should the rest be interrupted
            write_section(args.out, section, text)
        if args.json:
            args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder), publish)
        for threads in args.threads if kind == "cpu" else args.threads[:1]:
            for seconds in args.seconds:
                bench.songs(threads, seconds)
            if not args.no_nets:
                bench.nets(threads)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
