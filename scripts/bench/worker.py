"""One measurement in a process of its own, so that its peak memory is its own.

scripts/bench/encoders.py starts it with one JSON object as argument; it answers with one JSON object
per line.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from nets import build_ours, build_plain, plain_bytes
from torch import Tensor

from svc.audio.io import list_audio, read_audio
from svc.audio.resample import resample
from svc.speech import SpeechEncoder

RATE = 16000  # Hz
AGAIN_SECONDS = 10.0  # what took less is measured again, the best counts
RUNS = 4
SPEECH = ("ljspeech", "vctk_p225", "vctk_p226", "vctk_p227", "vcc16_sf1")  # read in this order
Answer = dict[str, Any]


def resident(device: str) -> float:
    """Bytes of memory this process has now; 0 where the system does not say."""
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated()
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return 1024.0 * int(line.split()[1])


def forget_peak(device: str) -> None:
    """Hand free memory back and start counting the peak anew, where the system can."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):  # else the peak is that since the start
            Path("/proc/self/clear_refs").write_text("5")
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> float:
    """Most bytes since `forget_peak`, or since the start of the process where it has no effect."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def free_memory(device: str) -> float:
    """Bytes that could still be used."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info()[0]
    info = Path("/proc/meminfo")
    if not info.is_file():
        return float("inf")
    line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable"))
    return 1024.0 * int(line.split()[1])


def timed(run: Callable[[], object], device: str, runs: int) -> float:
    """Best seconds of up to `runs` runs; one that takes long is not repeated."""
    best = float("inf")
    for _ in range(runs):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        best = min(best, seconds)
        if seconds > AGAIN_SECONDS:
            break
    return best


def noise(seconds: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(round(seconds * RATE)).normal_(0, 0.1, generator=generator)


def measure(order: Answer) -> None:
    """Time the jobs of one encoder and one variant."""
    name, variant, device = order["name"], order["variant"], order["device"]
    if variant == "plain":
        encoder: Any = build_plain(name, device=device)
    else:
        encoder = build_ours(name, device=device, precision=variant)
    forget_peak(device)
    model = resident(device)
    rate = 0.0  # seconds of computing per second of audio
    for job in order["jobs"]:
        seconds = sum(job["seconds"])
        answer: Answer = {"job": job["label"]}
        need = max(plain_bytes(name, s) for s in job["seconds"]) if variant == "plain" else 0.0
        if need == float("inf"):
            answer["skipped"] = "n/a"
        elif need > 0.9 * free_memory(device):
            answer["skipped"] = f"needs {need / 1e9:.0f} GB"
        elif rate * seconds > order["limit"]:
            answer["skipped"] = f"about {rate * seconds / 60:.0f} min"
        else:
            forget_peak(device)
            waves = [noise(length, seed) for seed, length in enumerate(job["seconds"])]

            def run(waves: Sequence[Tensor] = waves, batch: bool = job["batch"]) -> None:
                if batch:
                    encoder.encode_batch(waves)
                else:
                    for wave in waves:
                        encoder.encode(wave)

            taken = timed(run, device, order["runs"])
            rate = taken / seconds
            top = peak(device)
            answer |= {"audio": seconds, "seconds": taken, "peak": top, "beyond": top - model}
        print(json.dumps(answer), flush=True)


def speech(shared: Path, seconds: float) -> Tensor:
    """Read recordings one after the other until there is enough."""
    parts: list[Tensor] = []
    for folder in SPEECH:
        for path in list_audio(shared / "audio" / "speech" / folder):
            if sum(map(len, parts)) < seconds * RATE:
                wav, sr = read_audio(path)
                parts.append(torch.from_numpy(resample(wav, sr, RATE)))
    return torch.cat(parts)[: round(seconds * RATE)]


def apart(found: Tensor, wanted: Tensor) -> Answer:
    """Relative root mean square and largest difference."""
    difference = (found - wanted).double()
    return {
        "rms": float(difference.norm() / wanted.double().norm()),
        "max": float(difference.abs().max()),
    }


def deviate(order: Answer) -> None:
    """How far the same speech is from the plain path's units, the precisions from float32's."""
    name, device = order["name"], order["device"]
    wav, long = speech(Path(order["shared"]), 10.0), speech(Path(order["shared"]), 60.0)
    plain: Any = build_plain(name, device=device)
    ours: SpeechEncoder = build_ours(name, device=device)
    units = ours.encode(wav)
    answer: Answer = {"plain": apart(units, plain.encode(wav))}
    if plain_bytes(name, 60.0) < 0.9 * free_memory(device):
        answer["windows"] = apart(ours.encode(long), plain.encode(long))
    pieces = [wav[: 2 * RATE], wav, wav[3 * RATE : 8 * RATE]]
    alone = torch.cat([ours.encode(piece) for piece in pieces], dim=-1)
    answer["batch"] = apart(torch.cat(ours.encode_batch(pieces), dim=-1), alone)
    del plain, ours
    for precision in ("bf16", "fp16"):
        answer[precision] = apart(
            build_ours(name, device=device, precision=precision).encode(wav), units
        )
    print(json.dumps(answer), flush=True)


def main() -> None:
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    (measure if order["kind"] == "measure" else deviate)(order)


if __name__ == "__main__":
    main()
