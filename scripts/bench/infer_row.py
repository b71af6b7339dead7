"""One measurement of infer.py in a process of its own, so that its peak memory is its own.

infer.py starts it with one JSON object as argument; it answers with one JSON object in a line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from infer_nets import Singer, measure_net, plain_singer
from infer_ours import our_singer
from infer_rows import Row
from infer_work import product_peak
from worker import forget_peak, peak, resident

Order = dict[str, Any]


def convert_song(order: Order) -> dict[str, Any]:
    """Sing a short song that does not count, then the song."""
    row, device = Row(**order["row"]), order["device"]
    folder, song = Path(order["folder"]), Path(order["song"])
    target = folder / "result.flac"
    settle: Callable[[], None] = torch.cuda.synchronize if device != "cpu" else lambda: None
    begun = time.perf_counter()
    singer: Singer = (our_singer if row.ours else plain_singer)(folder, row, order)
    singer.sing(folder / "warm.wav", target)
    settle()
    ready = time.perf_counter() - begun

    forget_peak(device)
    before = resident(device)
    stages = singer.stages
    stages.seconds.clear()
    begun = stages.clock()
    n_samples, first = singer.sing(song, target)
    settle()
    seconds = stages.clock() - begun
    answer = {
        "seconds": seconds,
        "audio": n_samples / singer.sr,
        "first": first,
        "ready": ready,
        "peak": max(0.0, peak(device) - before),
    }
    if device != "cpu":  # again, waiting for the device after every stage, which costs time itself
        stages.seconds.clear()
        stages.settle = settle
        begun = stages.clock()
        singer.sing(Path(order["again"]), target)  # another song: what was heard is remembered
        seconds = stages.clock() - begun
    return {**answer, "stages": stages.shares(seconds)}


def measure(order: Order) -> dict[str, Any]:
    """Do what is asked for."""
    if order["kind"] == "peak":
        device = torch.device(order["device"])
        return {
            name: product_peak(device, name, size=order["size"], clock=order["clock"])
            for name in ("fp32", "bf16")
        }
    if order["kind"] == "net":
        return measure_net(order)
    return convert_song(order)


def main() -> None:
    order = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity") and order["device"] == "cpu":
        # Threads that work beside torch's, F0's for one, shall not have a core of their own.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order["threads"]])
    torch.set_num_threads(order["threads"])
    print(json.dumps(measure(order)), flush=True)


if __name__ == "__main__":
    main()
