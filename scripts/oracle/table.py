"""The figures of `compare.py` as Markdown, and which of them are good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import CASES, CLIPS, REAL_CLIPS

Figures = Mapping[str, Any]

LIMIT = 1e-5
"""Of a float32 difference. In nets whose values reach 10 the rounding of one value in a million is
more than that on either side; so a multiple of the other project's own is allowed as well.
"""
ROUNDINGS = 3
EXACT_LIMIT = 1e-11
"""Of the float64 difference, relative to the scale."""


def allowed(figures: Figures) -> float:
    """Largest float32 difference that is no more than rounding."""
    return max(LIMIT, ROUNDINGS * float(figures["rounding"]["theirs"]))


def is_good(figures: Figures) -> bool:
    """Whether a net's figures are within their limits."""
    worst = max((*figures["taps"].values(), *figures["ids"].values()))
    return bool(
        worst <= allowed(figures)
        and figures["float64"] <= EXACT_LIMIT * figures["scale"]
        and figures.get("mel", 0.0) <= LIMIT
        and figures.get("fold", 0.0) <= LIMIT / 10
    )


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _net_row(name: str, figures: Figures | str) -> str:
    case = CASES[name]
    if isinstance(figures, str):
        return _row([f"`{name}`", case.title, case.source, figures, *["-"] * 11])
    taps, rounding, seconds = figures["taps"], figures["rounding"], figures["seconds"]
    projected = [value for key, value in taps.items() if key.endswith(" projected")]
    ids = [f"{key} {value:.1e}" for key, value in figures["ids"].items()]
    return _row(
        [
            f"`{name}`",
            case.title,
            case.source,
            f"{figures['scale']:.1f}",
            *(_small(taps.get(key)) for key in ("9", "12", "24", "end")),
            _small(projected[0] if projected else None),
            ", ".join(ids) or "-",
            _small(figures["rms"]),
            _small(rounding["theirs"]),
            _small(rounding["ours"]),
            _small(figures["float64"]) + ("" if is_good(figures) else " **above the limit**"),
            f"{seconds['theirs']:.2f} / {seconds['ours']:.2f}",
        ]
    )


def section(results: Mapping[str, Figures | str], versions: Mapping[str, str]) -> str:
    """The section of docs/parity.md.

    Args:
        results: figures by case, or why there are none.
        versions: what `run.py` found of both environments, and the machine.
    """
    heads = [
        "net", "what", "against", "scale", "layer 9", "layer 12", "layer 24", "end", "projected",
        "through `encode`", "rms", "their rounding", "our rounding", "float64", "seconds theirs / ours",
    ]  # fmt: skip
    known = {name: figures for name, figures in results.items() if not isinstance(figures, str)}
    mels = [figures["mel"] for figures in known.values() if "mel" in figures]
    folds = [figures["fold"] for figures in known.values() if "fold" in figures]
    lines = [
        "## Content encoders",
        "",
        "Made by",
        "",
        "```",
        "SVC_SHARED=../shared bash scripts/oracle.sh --out docs/parity.md",
        "```",
        "",
        f"on {versions['machine']}. Ours: {versions['ours']}. The others: {versions['theirs']}.",
        "",
        "Each net but the last is of full size with random weights: no norm, bias or gain is left at "
        "0 or 1. The class of the other project makes it, writes its file and runs; svc reads the "
        f"file and runs on the same recordings of speech, {' and '.join(CLIPS)} at 16 kHz (the last "
        f"row: the real weights of tiny.en on {len(REAL_CLIPS)} clips of three speakers). Figures are "
        "largest absolute differences over all frames, channels and clips:",
        "",
        "- *layer 9* to *projected*: our float32 output from theirs, after that layer, at the end "
        "of the net (where the pre-norm nets have their last norm) and through the final projection;",
        "- *through `encode`*: the same for the units that the encoder with that id gives;",
        "- *rms*: root of the mean square of the same differences, the largest of the taps;",
        "- *their rounding*, *our rounding*: of either float32 output from their own net in float64;",
        "- *float64*: both nets in float64. What is left there is not rounding, so the nets compute "
        "the same function.",
        "",
        f"A float64 difference may be {EXACT_LIMIT:.0e} of the scale, which is the largest value; a "
        f"float32 difference {LIMIT:.0e}, or {ROUNDINGS} times their own rounding where that is more. "
        "*Seconds* are of one run on the first clip, with whatever else the machine was doing. "
        "In nets of this size the few largest values are rounded by about 1e-5 on either side; ours "
        "by somewhat more, because the convolutions over time are computed as matrix products, which "
        "add in another order.",
        "",
        _row(heads),
        _row(["---"] * len(heads)),
        *(_net_row(name, figures) for name, figures in results.items()),
        "",
    ]
    if mels:
        lines += [
            f"Log-mel of Whisper, ours from `log_mel_spectrogram`: {max(mels):.1e} (values in about "
            "[-1, 2]). In float64 both nets get the same mel.",
            "",
        ]
    if folds:
        lines += [
            "svc folds the weight norm of the positional convolution once, in float32: "
            f"{max(folds):.1e} from the exact weight, which takes its place in the float64 run.",
            "",
        ]
    lines += [
        "The files; where there are several of one net, all are read to the same tensors, bit for "
        "bit. *Reading*: peak memory while the first is read, beyond the net itself; pages of the "
        "file that are mapped count.",
        "",
        _row(["net", "files", "net, MiB", "reading, MiB"]),
        _row(["---"] * 4),
        *(
            _row(
                [
                    f"`{name}`",
                    "; ".join(CASES[name].files),
                    f"{figures['net_mb']:.0f}",
                    f"{figures['reading_mb']:.0f}",
                ]
            )
            for name, figures in known.items()
        ),
    ]
    return "\n".join(lines)
