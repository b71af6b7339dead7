"""Compare the nets with the reference arrays of so-vits-svc 4.1 and print the table of differences.

    SVC_SHARED=../shared python scripts/parity.py [VARIANT ...] [--out docs/parity.md]

One row per variant with the largest absolute difference of each output; exits with 1 when one is
above its limit. How each is measured: scripts/reference_nets.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import torch
from doc_section import write_section
from reference_nets import LIMITS, discriminator_figures, measure, train_step, variants

COLUMNS = {
    "inf_o": "infer o",
    "mix": "speaker mix o",
    "o": "forward o",
    "z": "z, z_p, m_q, logs_q",
    "prior": "m_p, logs_p",
    "lf0": "lf0 (three)",
    "auto_o": "o from the stored auto F0",
    "auto_f0": "auto F0 (Hz)",
    "kl": "KL of the stored arrays (relative)",
    "kl_whole": "KL of the whole forward (relative)",
    "o_32": "forward o, float32",
    "auto_32": "auto-F0 o, float32",
}


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(shared: Path, names: list[str]) -> tuple[list[str], bool]:
    """Markdown rows, and whether everything is within its limit."""
    lines = [
        _row(["variant", *COLUMNS.values()]),
        _row(["---"] * (1 + len(COLUMNS))),
        _row(["*limit*", *(f"*{LIMITS[key]:.0e}*" if key in LIMITS else "-" for key in COLUMNS)]),
    ]
    good = True
    for name in names:
        figures = measure(shared, name, plain=True)
        good &= all(figures[key] <= limit for key, limit in LIMITS.items() if key in figures)
        cells = [f"{figures[key]:.1e}" if key in figures else "-" for key in COLUMNS]
        lines.append(_row([name, *cells]))
        print(lines[-1], file=sys.stderr, flush=True)
    return lines, good


def document(shared: Path, names: list[str]) -> tuple[str, bool]:
    """Return the section of docs/parity.md, and whether everything is within its limit."""
    rows, good = table(shared, names)
    d = discriminator_figures(shared)
    found, expected = (
        train_step(shared),
        json.loads((shared / "golden" / "golden_trainstep.json").read_text()),
    )
    keys = ("mel", "kl", "fm", "gen", "lf0", "disc", "total", "grad_norm_g", "grad_norm_d")
    steps = [
        _row(
            [
                key,
                f"{expected[key]:.6f}",
                f"{found[key]:.6f}",
                f"{found[key] / expected[key] - 1:.1e}",
            ]
        )
        for key in keys
    ]
    text = [
        "## Synthesizer and discriminator",
        "",
        "Made by",
        "",
        "```",
        "SVC_SHARED=../shared python scripts/parity.py --out docs/parity.md",
        "```",
        "",
        f"on {platform.machine()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread(s). Largest absolute "
        "differences from the reference arrays, with `compat=True` and the weights and inputs of "
        "spec_core 12. The limits are those of spec_core 12; `tests/parity` asserts them.",
        "",
        "Inference with given F0 is plain float32. In the training forward and for the predicted F0, "
        "float32 rounding is amplified to the size of the limits (exp of large log deviations) and "
        "differs between CPUs. So there the encoders and the flow (in the forward the snake decoder, "
        "for the F0 its decoder too) run in float64, and what is left is the rounding of the "
        "reference arrays themselves. With automatic F0 the wave is compared from the stored F0: an "
        "F0 that differs by its rounding, integrated into phase, gives another wave of the same "
        "sound. The last two columns are forward and automatic F0 in plain float32, end to end.",
        "",
        "The KL term of the stored arrays is exact. That of a whole forward in float64 differs by "
        "the rounding of the stored latents, up to 1.3e-6.",
        "",
        *rows,
        "",
        "Discriminator (golden_D): "
        f"scores {d['scores']:.1e} (absolute), losses disc {d['disc']:.1e}, "
        f"gen {d['gen']:.1e}, fm {d['fm']:.1e}, "
        f"mel {d['mel_l1_x45']:.1e} (relative), spectrogram {d['spec']:.1e} (absolute).",
        "",
        "One optimiser step of G and D (golden_trainstep):",
        "",
        _row(["figure", "reference", "here", "relative difference"]),
        _row(["---"] * 4),
        *steps,
        "",
    ]
    return "\n".join(text), good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("variants", nargs="*", help="variants with reference arrays; default all")
    parser.add_argument("--out", type=Path, help='replace the section "synthesizer" there')
    args = parser.parse_args()
    default = Path(__file__).resolve().parents[2] / "shared"
    shared = Path(os.environ.get("SVC_SHARED", default))
    if not shared.is_dir():
        print(f"{shared}: no folder of reference arrays; set SVC_SHARED", file=sys.stderr)
        return 2
    text, good = document(shared, args.variants or variants(shared))
    if args.out:
        write_section(args.out, "synthesizer", text)
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
