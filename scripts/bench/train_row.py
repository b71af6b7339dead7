"""One row of train.py in a process of its own, so that its peak memory is its own.

train.py starts it with one JSON object as argument; it answers with one JSON object in a line.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from train_data import audio_seconds, batches, config_of
from train_plain import Options, PlainTrainer
from worker import peak

from svc.config import SvcConfig
from svc.synthesizer.model import Synthesizer
from svc.training.batches import Batch
from svc.training.compiling import compile_nets
from svc.training.loop import Stopwatch
from svc.training.machine import choose_kernels, with_precision
from svc.training.step import Adversaries
from svc.vocoder.discriminator import Discriminator

Step = Callable[[Batch, int], object]


def plain(config: SvcConfig, device: torch.device, options: dict[str, bool]) -> Step:
    torch.backends.cudnn.benchmark = True  # the original's
    net = Synthesizer.from_config(config, compat=True).to(device)
    trainer = PlainTrainer(config, net, Discriminator(
        width=config.model.discriminator_width
    ).to(device), Options(**options))  # fmt: skip
    return lambda batch, step: trainer.step(batch)


def ours(config: SvcConfig, device: torch.device, *, precision: str, compiled: bool) -> Step:
    choose_kernels(device)
    train = with_precision(config.train, precision, device)
    nets = Adversaries(dataclasses.replace(config, train=train), device)
    if compiled:
        compile_nets(nets.generator, nets.discriminator)
    return lambda batch, step: nets.step(batch, step, detailed=False)


def measure(order: dict[str, Any]) -> dict[str, float]:
    """Take some steps that do not count, then those that do."""
    device = torch.device(order["device"])
    config = config_of(order["template"], order["batch_size"])
    torch.manual_seed(config.train.seed)
    row, packed = order["row"], order["row"]["packed"]
    if row["ours"]:
        step = ours(config, device, precision=row["precision"], compiled=row["compiled"])
    else:
        step = plain(config, device, row["options"])
    watch = Stopwatch(
        batches(
            Path(order["folder"]), config, packed=packed, workers=order["workers"],
            pin=device.type == "cuda",
        )
    )  # fmt: skip

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for number in range(order["warm_up"]):
        step(watch.next_batch(), 1 + number)
    settle()
    watch.restart()
    began, worked, audio, clips = time.perf_counter(), time.process_time(), 0.0, 0
    for number in range(order["steps"]):
        batch = watch.next_batch()
        step(batch, 1 + order["warm_up"] + number)
        audio += audio_seconds(batch, config)
        clips += len(batch)
    settle()
    wall, cpu = time.perf_counter() - began, time.process_time() - worked
    return {
        "steps": order["steps"],
        "seconds": cpu if order["clock"] == "cpu" else wall,
        "waiting": watch.read()[1],
        "audio": audio,
        "clips": clips,
        "peak": peak(order["device"]),
    }


def main() -> None:
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    print(json.dumps(measure(order)), flush=True)


if __name__ == "__main__":
    main()
