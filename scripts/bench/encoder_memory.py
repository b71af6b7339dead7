"""Peak memory of loading a content encoder whose file also holds the optimizer's state.

    python scripts/bench/encoder_memory.py [--folder DIR] [--gigabytes 1.33]

Writes a HuBERT base of random numbers under fairseq's names, with Adam moments up to the size of the published
ContentVec file, in each of torch's containers (one at a time, in a temporary folder); loads it in a process of its own
and prints a table. "Beyond the net" is the highest resident memory while loading, less what the process had before and
less the net itself; pages of the file that were looked at count. Beside it, for comparison, a plain torch.load of the
whole file, which makes no net yet.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

DIM, FFN, LAYERS, CONV, KERNELS = 768, 3072, 12, 512, (10, 3, 3, 3, 3, 2, 2)


def hubert_base() -> dict[str, Any]:
    """Tensors of a HuBERT base with a 256-wide projection, by fairseq's names."""
    import torch

    state = {"mask_emb": torch.randn(DIM)}

    def linear(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"] = torch.randn(rows, columns) * columns**-0.5
        state[f"{name}.bias"] = torch.zeros(rows)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(width), torch.zeros(width)

    for i, kernel in enumerate(KERNELS):
        columns = CONV if i else 1
        name = f"feature_extractor.conv_layers.{i}"
        state[f"{name}.0.weight"] = torch.randn(CONV, columns, kernel) * (columns * kernel) ** -0.5
    norm("feature_extractor.conv_layers.0.2", CONV)
    linear("post_extract_proj", DIM, CONV)
    state["encoder.pos_conv.0.bias"] = torch.zeros(DIM)
    state["encoder.pos_conv.0.weight_g"] = torch.ones(1, 1, 128)
    state["encoder.pos_conv.0.weight_v"] = torch.randn(DIM, DIM // 16, 128)
    for i in range(LAYERS):
        name = f"encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            linear(f"{name}.self_attn.{part}", DIM, DIM)
        linear(f"{name}.fc1", FFN, DIM)
        linear(f"{name}.fc2", DIM, FFN)
        norm(f"{name}.self_attn_layer_norm", DIM)
        norm(f"{name}.final_layer_norm", DIM)
    norm("encoder.layer_norm", DIM)
    norm("layer_norm", CONV)
    linear("final_proj", 256, DIM)
    return state


def write_file(path: Path, n_bytes: int, *, zipped: bool) -> None:
    """Write the net and Adam moments, `n_bytes` in all."""
    import torch

    state = hubert_base()
    moments: dict[int, Any] = {}
    left = n_bytes - 4 * sum(tensor.numel() for tensor in state.values())
    while left > 0:
        for tensor in state.values():
            if left > 0:
                moments[len(moments)] = {
                    "step": 400_000,
                    "exp_avg": torch.randn_like(tensor),
                    "exp_avg_sq": torch.rand_like(tensor),
                }
                left -= 8 * tensor.numel()
    content = {
        "args": None,
        "cfg": {"model": {"encoder_attention_heads": 12, "layer_norm_first": False}},
        "model": state,
        "last_optimizer_state": {"state": moments, "param_groups": []},
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)


def memory(key: str) -> int:
    """A line of this process's memory accounts, bytes: VmRSS now, VmHWM the peak."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


def measure(path: Path, how: str) -> None:
    """In a process of its own: load, and print the figures as JSON."""
    import torch

    if how == "svc":
        from svc.speech.wave_files import load_wave_net as load
    else:

        def load(path: Path) -> Any:
            return torch.load(path, weights_only=True)["model"]

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = memory("VmRSS"), time.perf_counter()
    loaded = load(path)
    seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
    tensors = (loaded if how != "svc" else loaded.state_dict()).values()
    model = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    figures = {"peak": peak, "model": model, "beyond": peak - model, "seconds": seconds}
    sys.stdout.write(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where to write; default: the system's temporary folder"
    )
    parser.add_argument("--gigabytes", type=float, default=1.33, help="size of the file")
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "HOW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure[0]), options.measure[1])
        return
    rows = [
        "| loaded by | container | file | net | peak | beyond the net | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for container in ("zip", "stream"):
            path = Path(folder) / f"{container}.pt"
            write_file(path, int(options.gigabytes * 1e9), zipped=container == "zip")
            for how in ("svc", "torch"):
                command = [sys.executable, __file__, "--measure", str(path), how]
                figures = json.loads(
                    subprocess.run(command, check=True, capture_output=True).stdout
                )
                megabytes = [
                    path.stat().st_size,
                    *(figures[key] for key in ("model", "peak", "beyond")),
                ]
                cells = [f"{value / 1e6:.0f} MB" for value in megabytes]
                by = "load_wave_net" if how == "svc" else "torch.load, whole"
                rows.append(
                    f"| {by} | {container} | {' | '.join(cells)} | {figures['seconds']:.1f} |"
                )
            path.unlink()
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
