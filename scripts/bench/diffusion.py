"""Seconds and network evaluations of diffusion per sampler, of batches of chunks and of vocoders, as Markdown tables
for docs/diffusion.md; with a trained model also how near n evaluations come to ddpm, and what half precision changes.

    python scripts/bench/diffusion.py --threads 1 --out docs/diffusion.md
    python scripts/bench/diffusion.py --model runs/alice/logs/diffusion/best --data runs/alice --out docs/diffusion.md
    python scripts/bench/diffusion.py --quick

The baseline is measured in the same run, in turns with ours: the plain path of scripts/bench/diffusion_plain.py. The
nets of the speed tables have their real sizes and random weights: speed does not depend on the values. With one thread
seconds are those of the processor, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import copy
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from diffusion_plain import PlainDiffusion
from diffusion_quality import load_clips, load_nets, precision_table, quality_table
from doc_section import write_section
from torch import Tensor, nn

from svc.config import find_template, load_diffusion_config, load_vocoder_config
from svc.devices import inference_dtype
from svc.diffusion import Unit2Mel
from svc.diffusion.chunks import Chunk, batches
from svc.vocoder.nsf_hifigan import NsfHifigan

Work = Callable[[], object]

RATE = 44100 / 512  # frames per second
# Sampler, k_step, speedup.
PLANS = (
    ("ddpm", 100, 1), ("ddim", 100, 10), ("pndm", 100, 10), ("dpm-solver", 100, 10),
    ("dpm-solver++", 100, 10), ("unipc", 100, 10), ("dpm-solver++", 100, 20),
    ("dpm-solver++", 1000, 10), ("dpm-solver++", 1000, 50), ("unipc", 1000, 50),
)  # fmt: skip
QUICK_PLANS = (("ddpm", 20, 1), ("ddim", 100, 20), ("pndm", 100, 20), ("unipc", 100, 20))
# Seconds of the stretches of a song between its pauses: a few long ones, many short ones.
PHRASES = (6.2, 0.8, 2.4, 1.1, 3.7, 0.6, 5.0, 1.9, 0.9, 2.8, 1.4, 0.7, 4.1, 2.2, 1.0, 3.2)
BATCH_FRAMES = 2048


def diffusion_model(*, quick: bool) -> Unit2Mel:
    """The template's net with random weights, which tell some noise."""
    config = load_diffusion_config(find_template("diffusion_template.yaml"))
    if quick:
        config = replace(config, model=replace(config.model, n_layers=2, n_chans=32, n_hidden=24))
    torch.manual_seed(0)
    model = Unit2Mel.from_config(config).eval().requires_grad_(False)
    # Scaled up, x would grow to where there are no floats: a random net does not tell the noise.
    nn.init.normal_(model.decoder.denoise_fn.output_projection.weight, std=1e-3)
    return model


def settled(model: Unit2Mel, precision: str, device: torch.device) -> Unit2Mel:
    """A copy as `svc infer` uses it."""
    made = copy.deepcopy(model).to(device)
    made.settle(inference_dtype(precision, device, flag="--precisions"))
    return made


class Stopwatch:
    """Least seconds of several works, taken in turns."""

    def __init__(self, device: torch.device, runs: int, threads: int) -> None:
        self.device, self.runs = device, runs
        alone = device.type == "cpu" and threads == 1
        self.clock = time.process_time if alone else time.perf_counter

    def __call__(self, works: Sequence[Work]) -> list[float]:
        best = [float("inf")] * len(works)
        for _ in range(self.runs):
            for index, work in enumerate(works):
                self._wait()
                start = self.clock()
                work()
                self._wait()
                best[index] = min(best[index], self.clock() - start)
        return best

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


# ---- samplers ------------------------------------------------------------------------------------


@torch.inference_mode()
def sampler_table(args: argparse.Namespace, watch: Stopwatch) -> list[str]:
    """Evaluations and seconds per second of audio of every sampler."""
    device = watch.device
    model = diffusion_model(quick=args.quick).to(device)
    nets = {precision: settled(model, precision, device) for precision in args.precisions}
    plain = PlainDiffusion(model.state_dict())
    n_frames = round(args.seconds * RATE)
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, model.n_mels, n_frames, generator=draws).to(device)
    n_hidden = model.unit_embed.out_features
    condition = torch.randn(1, n_hidden, n_frames, generator=draws).to(device)

    def draw() -> Tensor:
        return torch.randn(x.shape, device=device)

    for net in nets.values():  # what is done once in a program is no part of a chunk
        net.decoder.sample(x, condition, net.decoder.plan("ddim", k_step=20, speedup=10), draw)
    lines = [
        "| sampler | k_step | speedup | evaluations, plain | ours | plain | "
        + " | ".join(f"{name} | plain / {name}" for name in nets)
        + " |",
        "| --- |" + " ---: |" * (5 + 2 * len(nets)),
    ]
    for method, k_step, speedup in QUICK_PLANS if args.quick else PLANS:
        print(f"{method} {k_step} {speedup}", file=sys.stderr, flush=True)
        plan = model.decoder.plan(method, k_step=k_step, speedup=speedup)

        def run_plain(method: str = method, k_step: int = k_step, speedup: int = speedup) -> Tensor:
            return plain.sample(x, condition, method, k_step=k_step, speedup=speedup, draw=draw)

        works: list[Work] = [run_plain]
        for net in nets.values():
            works.append(lambda net=net, plan=plan: net.decoder.sample(x, condition, plan, draw))  # type: ignore[misc]
        first, *others = (seconds / args.seconds for seconds in watch(works))
        cells = [method, str(k_step), str(speedup), str(plain.evaluations), str(len(plan.times))]
        cells += [f"{first:.3f}"]
        cells += [cell for factor in others for cell in (f"{factor:.3f}", f"{first / factor:.2f}")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


# ---- batches -------------------------------------------------------------------------------------


@torch.inference_mode()
def batch_table(args: argparse.Namespace, watch: Stopwatch) -> list[str]:
    """The phrases of a song one by one and together."""
    device = watch.device
    model = diffusion_model(quick=args.quick)
    phrases = PHRASES[:4] if args.quick else PHRASES
    limit = args.batch_frames
    draws = torch.Generator().manual_seed(0)
    chunks = []
    for seconds in phrases:
        n_frames = round(seconds * RATE)
        units = torch.randn(n_frames, model.unit_embed.in_features, generator=draws).to(device)
        f0 = torch.full((n_frames,), 220.0, device=device)
        mel = torch.randn(model.n_mels, n_frames, generator=draws).to(device) - 5
        chunks.append(Chunk(units, f0, 0.1 * torch.ones_like(f0), mel=mel))
    total = sum(phrases)
    parts = batches([len(chunk) for chunk in chunks], limit)
    lines = [
        f"| {len(chunks)} phrases, {total:.0f} s | one by one | together | one by one / together |",
        "| --- | ---: | ---: | ---: |",
    ]
    for precision in args.precisions:
        print(f"batches {precision}", file=sys.stderr, flush=True)
        net = settled(model, precision, device)

        def alone(net: Unit2Mel = net) -> None:
            for chunk in chunks:
                net.infer_many([replace(chunk, generator=torch.Generator().manual_seed(1))])

        def together(net: Unit2Mel = net) -> None:
            for part in parts:
                net.infer_many(
                    [replace(chunks[i], generator=torch.Generator().manual_seed(1)) for i in part]
                )

        one, many = (seconds / total for seconds in watch([alone, together]))
        lines.append(f"| {precision} | {one:.3f} | {many:.3f} | {one / many:.2f} |")
    return lines


# ---- vocoders ------------------------------------------------------------------------------------


@torch.inference_mode()
def vocoder_table(args: argparse.Namespace, watch: Stopwatch) -> list[str]:
    """The generator as it is loaded and as it sings, at a length that is new to it and again."""
    device = watch.device
    names = (
        ("template_vocoder_small.json",)
        if args.quick
        else ("template_vocoder.json", "template_vocoder_small.json")
    )
    n_frames = round(args.seconds * RATE)
    lines = [
        "| vocoder | | plain | " + " | ".join(f"{p} | plain / {p}" for p in args.precisions) + " |",
        "| --- | --- | ---: |" + " ---: |" * (2 * len(args.precisions)),
    ]
    for name in names:
        print(name, file=sys.stderr, flush=True)
        torch.manual_seed(0)
        plain = NsfHifigan(load_vocoder_config(find_template(name))).eval().requires_grad_(False)
        plain.generator.fold()
        nets = [plain.to(device)]
        for precision in args.precisions:
            nets.append(copy.deepcopy(plain))
            nets[-1].settle(inference_dtype(precision, device, flag="--precisions"))
        found: dict[str, list[float]] = {"new length": [], "again": []}
        once = Stopwatch(device, 1, args.threads[0])
        once.clock = watch.clock
        for net in nets:
            _sing(net, n_frames + 7)  # memory is reserved
            found["new length"] += once([lambda net=net: _sing(net, n_frames)])  # type: ignore[misc]
        found["again"] = watch([lambda net=net: _sing(net, n_frames) for net in nets])  # type: ignore[misc]
        for label, seconds in found.items():
            first, *others = (value / args.seconds for value in seconds)
            cells = [name.removesuffix(".json"), label, f"{first:.3f}"]
            cells += [text for other in others for text in (f"{other:.3f}", f"{first / other:.2f}")]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _sing(net: NsfHifigan, n_frames: int) -> Tensor:
    mel = torch.full((1, net.n_mels, n_frames), -5.0, device=net.device)
    f0 = torch.full((1, n_frames), 220.0, device=net.device)
    wav: Tensor = net(mel, f0, generator=torch.Generator().manual_seed(0))
    return wav


# ---- the command ---------------------------------------------------------------------------------


def machine(args: argparse.Namespace, threads: int) -> str:
    if args.device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(args.device)}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    model = next(
        (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line),
        platform.processor() or platform.machine(),
    )
    parts = [torch.backends.cpu.get_cpu_capability()]
    parts += ["AMX"] if "amx_bf16" in text else []
    return (
        f"{model} ({', '.join(parts)}), {threads} thread{'s' if threads > 1 else ''}, "
        f"torch {torch.__version__}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=" ".join((__doc__ or "").split("\n\n")[0].split()))
    parser.add_argument("--seconds", type=float, help="of audio in a chunk (default: 10)")
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--runs", type=int, default=2, help="the fastest counts (default: 2)")
    parser.add_argument("--batch_frames", type=int, default=BATCH_FRAMES)
    parser.add_argument("--model", type=Path, help="trained model, or its folder: quality tables")
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder that its paths count from"
    )
    parser.add_argument("--clips", type=int, default=8, help="held-out clips at most (default: 8)")
    parser.add_argument("--seeds", type=int, default=4, help="runs of ddpm (default: 4)")
    parser.add_argument("--no_speed", action="store_true", help="the quality tables only")
    parser.add_argument("--quick", action="store_true", help="small nets, one second, one run")
    parser.add_argument("--out", type=Path, help="write the sections of this document")
    args = parser.parse_args(arguments)
    args.seconds = args.seconds or (1.0 if args.quick else 10.0)
    args.runs = 1 if args.quick else args.runs

    def publish(section: str, lines: Sequence[str], facts: str) -> None:
        body = "\n".join([facts, "", *lines])
        print(f"\n{section}\n\n{body}", flush=True)
        if args.out:  # what is measured is kept, should the rest be interrupted
            write_section(args.out, section, body)

    kind = args.device.partition(":")[0]
    for threads in [] if args.no_speed else args.threads:
        torch.set_num_threads(threads)
        watch = Stopwatch(torch.device(args.device), args.runs, threads)
        where = f"{kind} {threads}" if kind == "cpu" else kind
        seconds = "seconds of the processor" if watch.clock is time.process_time else "seconds"
        facts = f"{machine(args, threads)}; {seconds} per second of audio"
        at_a_time = f"{facts}, {args.seconds:g} s at a time."
        publish(f"diffusion speed {where}", sampler_table(args, watch), at_a_time)
        publish(f"diffusion batches {where}", batch_table(args, watch), f"{facts}.")
        publish(f"vocoder speed {where}", vocoder_table(args, watch), at_a_time)
    if args.model:
        torch.set_num_threads(args.threads[0])
        nets = load_nets(args.model, args.data, torch.device(args.device))
        clips = load_clips(nets, args.data, args.clips)
        publish("diffusion quality", *quality_table(nets, clips, seeds=args.seeds))
        publish("diffusion precision", *precision_table(nets, clips))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
