"""Seconds of work per second of audio of each graph of `svc onnx-export --profile full`, torch against
onnxruntime in turns, as Markdown tables for docs/export.md.

    python scripts/bench/onnx_graphs.py --threads 1 2 --out docs/export.md
    python scripts/bench/onnx_graphs.py --quick

The nets have their real sizes (a default voice on vec768l12) and random weights: speed does not
depend on the values. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnxruntime
import torch
from doc_section import write_section
from f0_plain import rmvpe_state
from nets import build_ours, fill, wave_net
from torch import Tensor

from svc.config import SvcConfig, VocoderConfig, load_config, load_diffusion_config
from svc.config.bundle import DENOISER, ENCODER, F0_DECODER, SYNTHESIZER, VOCODER, f0_graph
from svc.config.templates import find_template
from svc.diffusion import Unit2Mel
from svc.export.full_diffusion import diffusion_facts, export_diffusion
from svc.export.full_encoder import export_encoder
from svc.export.full_examples import example_noise, example_wave
from svc.export.full_f0 import export_f0, load_predictor
from svc.export.full_synthesizer import (
    F0DecoderGraph,
    SynthesizerGraph,
    example_inputs,
    export_f0_decoder,
    export_synthesizer,
)
from svc.export.full_vocoder import VocoderGraph, export_vocoder, vocoder_facts
from svc.export.full_vocoder import example_inputs as vocoder_inputs
from svc.f0.rmvpe_net import RmvpeConfig
from svc.f0.wave import F0Wave
from svc.speech import SpeechEncoder
from svc.speech.wav2vec2 import Wav2Vec2Config
from svc.speech.wave_encoder import Wav2Vec2Encoder
from svc.synthesizer import Synthesizer
from svc.vocoder.nsf_hifigan import NsfHifigan

Work = Callable[[], object]
Feed = Mapping[str, Tensor]

TOLERANCE = 1e-3  # random weights may make numbers larger than a trained net does
EVALUATIONS = 10  # of the denoiser
_SMALL_ENCODER = Wav2Vec2Config(
    conv_channels=(32,) * 7,
    conv_bias=False,
    conv_layer_norm=False,
    dim=768,
    n_heads=(12,),
    ffn_dims=(64,),
    head_dim=64,
    pre_norm=False,
    position_kernel=128,
    position_groups=16,
    projection_dim=256,
)
# The community's vocoder (spec_vocoder 1).
_VOCODER = VocoderConfig(
    resblock="1",
    upsample_rates=(8, 8, 2, 2, 2),
    upsample_kernel_sizes=(16, 16, 4, 4, 4),
    upsample_initial_channel=512,
    resblock_kernel_sizes=(3, 7, 11),
    resblock_dilation_sizes=((1, 3, 5),) * 3,
    num_mels=128,
    n_fft=2048,
    win_size=2048,
    hop_size=512,
    sampling_rate=44100,
    fmin=40.0,
    fmax=16000.0,
)
_SMALL_RMVPE = RmvpeConfig(n_blocks=1, n_middle=1, width=2, gru_dim=16)


@dataclass(frozen=True)
class Part:
    """One row: what torch runs, and the graph that does the same."""

    label: str
    path: Path
    torch: Work
    feed: Feed
    runs: int = 1  # of the graph, for one of `torch`


def fastest(works: Sequence[Work], runs: int) -> list[float]:
    """Least seconds of each, taken in turns."""
    best = [float("inf")] * len(works)
    for _ in range(runs):
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def build_encoder(quick: bool) -> SpeechEncoder:
    if quick:
        return Wav2Vec2Encoder(wave_net(_SMALL_ENCODER), name="vec768l12", layer=12)
    return build_ours("vec768l12", device="cpu")


def build_voice(config: SvcConfig) -> Synthesizer:
    torch.manual_seed(0)
    net = Synthesizer.from_config(config).eval().requires_grad_(False)
    net.enc_q = None
    net.fold_weight_norm()
    return net


def parts(folder: Path, seconds: float, quick: bool) -> Iterator[Part]:
    """Export one part after the other; each is measured before the next is made."""
    encoder, wav = build_encoder(quick), example_wave(round(16000 * seconds))
    path = folder / ENCODER
    export_encoder(encoder, path, tolerance=TOLERANCE, metadata={})
    yield Part("vec768l12", path, lambda: encoder.encode(wav[0]), {"wav": wav})

    yield from f0_parts(folder, wav, quick)

    config = load_config(find_template("template_quick.json" if quick else "template.json"))
    net = build_voice(config)
    n_frames = round(seconds * config.data.sampling_rate / config.data.hop_length)
    inputs = example_inputs(net, 1, n_frames)
    path = folder / SYNTHESIZER
    export_synthesizer(net, 1, path, tolerance=TOLERANCE, metadata={})
    yield Part("synthesizer", path, graph_work(SynthesizerGraph(net), inputs), inputs)
    if net.has_auto_f0:
        graph, path = F0DecoderGraph(net), folder / F0_DECODER
        wanted = {name: inputs[name] for name in graph.names if name in inputs}
        export_f0_decoder(net, 1, path, tolerance=TOLERANCE, metadata={})
        yield Part("F0 decoder", path, graph_work(graph, wanted), wanted)

    yield from diffusion_parts(folder, n_frames, quick)

    small = replace(_VOCODER, upsample_initial_channel=32) if quick else _VOCODER
    vocoder = NsfHifigan(small).eval().requires_grad_(False)
    vocoder.generator.fold()
    facts = vocoder_facts(vocoder)
    export_vocoder(vocoder, facts, folder, tolerance=TOLERANCE, metadata={})
    inputs = vocoder_inputs(facts, n_frames)
    yield Part("vocoder", folder / VOCODER, graph_work(VocoderGraph(vocoder), inputs), inputs)


def graph_work(graph: torch.nn.Module, inputs: Feed) -> Work:
    return lambda: graph(*inputs.values())


def f0_parts(folder: Path, wav: Tensor, quick: bool) -> Iterator[Part]:
    state = rmvpe_state(_SMALL_RMVPE if quick else RmvpeConfig())
    torch.save({"model": state}, folder / "rmvpe.pt")
    limits = {"threshold": 0.05, "f0_min": 50.0, "f0_max": 1100.0}
    feed = {"wav": wav, **{name: torch.tensor([value]) for name, value in limits.items()}}
    for name in ("rmvpe", "fcpe"):
        predictor, path = load_predictor(name, folder), folder / f0_graph(name)
        # A random net is unsure: the largest of its bins may be another after rounding.
        tolerance = TOLERANCE if name == "fcpe" else 10.0
        export_f0(predictor, path, tolerance=tolerance, metadata={})

        def work(predictor: Any = predictor) -> object:
            return predictor.raw_f0(F0Wave(wav[0].numpy(), 16000))

        yield Part(name, path, work, feed)


def diffusion_parts(folder: Path, n_frames: int, quick: bool) -> Iterator[Part]:
    config = load_diffusion_config(find_template("diffusion_template.yaml"))
    if quick:
        small = replace(config.model, n_layers=2, n_chans=32, n_hidden=24)
        config = replace(config, model=small)
    model = Unit2Mel.from_config(config).eval().requires_grad_(False)
    denoiser = model.decoder.denoise_fn
    fill(denoiser)
    facts = diffusion_facts(model, config, what="the template")
    export_diffusion(model, facts, folder, tolerance=TOLERANCE, metadata={})
    noise = example_noise((1, 1, model.n_mels, n_frames))
    condition = example_noise((1, facts.n_hidden, n_frames))
    times = torch.linspace(99.0, 0.0, EVALUATIONS).tolist()

    def work() -> object:
        prepared = denoiser.prepare(condition, times)
        return [prepared(noise, index) for index in range(EVALUATIONS)]

    feed = {"noise": noise, "time": torch.tensor([99.0]), "condition": condition}
    label = f"denoiser, {EVALUATIONS} evaluations"
    yield Part(label, folder / DENOISER, work, feed, runs=EVALUATIONS)


def open_graph(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def row(part: Part, threads: int, args: argparse.Namespace) -> str:
    session = open_graph(part.path, threads)
    feed = {name: x.numpy() for name, x in part.feed.items()}

    def run() -> object:
        return [session.run(None, feed) for _ in range(part.runs)]

    works: list[Work] = [part.torch, run]
    if not args.quick:
        fastest(works, 1)  # the first run reserves memory
    ours, theirs = (value / args.seconds for value in fastest(works, args.runs))
    size = part.path.stat().st_size / 1e6
    return f"| {part.label} | {size:.1f} | {ours:.3f} | {theirs:.3f} | {ours / theirs:.2f} |"


def machine(threads: int, seconds: float) -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    model = next(
        (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line),
        platform.processor() or platform.machine(),
    )
    return (
        f"{model} ({torch.backends.cpu.get_cpu_capability()}), {threads} "
        f"thread{'s' if threads > 1 else ''}, {seconds:g} s of audio, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=" ".join((__doc__ or "").split("\n\n")[0].split()))
    parser.add_argument("--seconds", type=float, help="of audio (default: 10)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runs", type=int, default=3, help="the fastest counts (default: 3)")
    parser.add_argument("--quick", action="store_true", help="small nets, one second, one run")
    parser.add_argument("--out", type=Path, help="write the sections of this document")
    args = parser.parse_args(arguments)
    args.seconds = args.seconds or (1.0 if args.quick else 10.0)
    args.runs = 1 if args.quick else args.runs
    rows: dict[int, list[str]] = {threads: [] for threads in args.threads}
    with tempfile.TemporaryDirectory() as folder:
        for part in parts(Path(folder), args.seconds, args.quick):
            for threads in args.threads:
                print(f"{part.label}: {threads} threads", file=sys.stderr, flush=True)
                torch.set_num_threads(threads)
                rows[threads].append(row(part, threads, args))
            part.path.unlink()
    for threads, lines in rows.items():
        table = [
            "| graph | MB | torch | onnxruntime | torch / onnxruntime |",
            "| --- | ---: | ---: | ---: | ---: |",
            *lines,
        ]
        body = "\n".join([f"{machine(threads, args.seconds)}.", "", *table])
        section = f"onnx speed {threads}"
        print(f"\n{section}\n\n{body}", flush=True)
        if args.out:
            write_section(args.out, section, body)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
