"""What infer.py has measured, as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from infer_rows import NetRow, Row
from infer_stages import STAGES

Answer = Mapping[str, Any]
Figures = dict[str, Any]


def median_of(answers: Sequence[Answer], value: str) -> float:
    return statistics.median(answer[value] for answer in answers)


def song_figures(table: Sequence[Row], answers: Sequence[Sequence[Answer]]) -> list[Figures]:
    """Medians over the rounds; a gain is that over the plain row, the first one, in the same round.

    Returns:
        Per row: `row`, `rtf` seconds per second of the song, `gain` (None where there is no plain
        row), `first` seconds, `ready` seconds, `peak` bytes beyond the models, `stages` seconds per
        second of the song.
    """
    lines = []
    for row, found in zip(table, answers, strict=True):
        ratios = [
            plain["seconds"] / answer["seconds"]
            for plain, answer in zip(answers[0], found, strict=True)
        ]
        stages = {
            name: statistics.median(a["stages"].get(name, 0.0) / a["audio"] for a in found)
            for name in (*STAGES, "rest")
            if any(name in a["stages"] for a in found)
        }
        lines.append(
            {
                "row": row.label,
                "rtf": statistics.median(a["seconds"] / a["audio"] for a in found),
                "gain": statistics.median(ratios) if table[0].label == "plain" else None,
                "first": median_of(found, "first"),
                "ready": median_of(found, "ready"),
                "peak": max(a["peak"] for a in found),
                "stages": stages,
            }
        )
    return lines


def song_tables(lines: Sequence[Figures], *, device: str) -> list[str]:
    """The whole, then the stages, of `song_figures`."""
    memory = "MB of the device" if device == "cuda" else "MB"
    text = [
        f"| | s per s of song | times plain | first sound, s | peak {memory} | ready after, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in lines:
        cells = [
            line["row"], f"{line['rtf']:.3f}",
            "-" if line["gain"] is None else f"{line['gain']:.2f}", f"{line['first']:.2f}",
            f"{line['peak'] / 1e6:.0f}", f"{line['ready']:.1f}",
        ]  # fmt: skip
        text.append(f"| {' | '.join(cells)} |")
    names = [name for name in (*STAGES, "rest") if any(name in line["stages"] for line in lines)]
    text += ["", "Milliseconds per second of the song, stage by stage:", ""]
    text += [f"| | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for line in lines:
        cells = [_milliseconds(line["stages"].get(name)) for name in names]
        text.append(f"| {' | '.join([line['row'], *cells])} |")
    return text


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.1f}" if seconds < 0.01 else f"{1000 * seconds:.0f}"


def net_figures(
    table: Sequence[NetRow], peaks: Sequence[Answer], answers: Sequence[Sequence[Answer]]
) -> list[Figures]:
    """Medians over the rounds; gains and shares are taken within a round.

    Returns:
        Per row: `seconds`, `new` (the same at a length for the first time), `gain` over the first row
        of the same net, `speed` in operations per second, `share` of the matrix product's in the row's
        precision, `snr` dB or None.
    """
    first = {row.net: found for row, found in zip(reversed(table), reversed(answers), strict=True)}
    lines = []
    for row, found in zip(table, answers, strict=True):
        speeds = [answer["operations"] / answer["seconds"] for answer in found]
        plain = first[row.net]
        lines.append(
            {
                "net": row.net,
                "row": row.label,
                "seconds": median_of(found, "seconds"),
                "new": median_of(found, "new"),
                "gain": statistics.median(
                    p["seconds"] / a["seconds"] for p, a in zip(plain, found, strict=True)
                ),
                "speed": statistics.median(speeds),
                "share": statistics.median(
                    speed / peak[row.precision] for speed, peak in zip(speeds, peaks, strict=True)
                ),
                "snr": found[0].get("snr"),
            }
        )
    return lines


def net_table(lines: Sequence[Figures], peaks: Sequence[Answer], *, seconds: float) -> list[str]:
    """Every net alone, of `net_figures`, with the peak above it."""
    best = ", ".join(
        f"{median_of(peaks, name) / 1e9:.0f} GFLOP/s in {name}" for name in ("fp32", "bf16")
    )
    text = [
        f"Input of {seconds:g} s; torch's matrix product at its best: {best}.",
        "",
        "| net | | s per s | times plain | s per s at a new length | GFLOP/s | share of peak | SNR, dB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in lines:
        cells = [
            line["net"], line["row"], f"{line['seconds'] / seconds:.3f}", f"{line['gain']:.2f}",
            f"{line['new'] / seconds:.3f}", f"{line['speed'] / 1e9:.0f}", f"{line['share']:.0%}",
            _decibels(line["snr"]),
        ]  # fmt: skip
        text.append(f"| {' | '.join(cells)} |")
    return text


def _decibels(snr: float | None) -> str:
    if snr is None:
        return "-"
    return f"{snr:.0f}" if math.isfinite(snr) else "same"
