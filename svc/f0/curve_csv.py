r"""The text of a pitch curve: ``time_s,f0_hz,voiced,confidence``, one row per frame.

==============  ==================================================================================
``time_s``      seconds from the song's start, increasing
``f0_hz``       Hz; in unvoiced rows what fills the gap; 0 or nothing there = to be filled
``voiced``      1 or 0; without this column, rows are voiced where f0_hz is above 0
``confidence``  0..1, how sure the predictor was; optional, nothing depends on it
==============  ==================================================================================

Written with "," and a decimal point. Read as spreadsheets and other programs leave it: ";" or tabs,
then also with a decimal comma; any line ends; a byte order mark, also UTF-16; rows and columns
moved, added or deleted; comments after "#"; names of columns as other programs write them; two
columns of times and pitches without a header.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track
from svc.errors import CurveError

logger = logging.getLogger(__name__)

HEADER = ("time_s", "f0_hz", "voiced", "confidence")
_ALIASES = {
    "time_s": ("time", "times", "t", "time (s)", "seconds", "time_sec", "onset"),
    "f0_hz": ("f0", "frequency", "hz", "pitch", "pitch_hz", "frequency_hz", "f0 (hz)"),
    "voiced": ("voicing",),
    "confidence": ("probability", "periodicity"),
}
_COLUMN = {alias: name for name, all_ in _ALIASES.items() for alias in (name, *all_)}
_LINE_END = re.compile(r"\r\n|\r|\n")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII)
_TRUE, _FALSE = ("1", "true", "yes", "v"), ("0", "false", "no", "u", "")

_LOWEST_HZ = 25.0  # a curve that stays below is no pitch in Hz
_HIGHEST_HZ = 4000.0  # nor is one above: the highest notes ever sung lie near 3100 Hz
_NO_PITCH_HZ = 20000.0
_NOTE_NUMBERS = (36, 96)  # MIDI's, of voices: C2 to C7
_HIGH_NOTE = 84  # C6: half of the notes of a song lie below, but half the Hz of a bass above
_LOW_VOICE_HZ = 60.0
_UNIT = "f0_hz is in Hz (the note A4 is 440)"


@dataclass(frozen=True)
class CurvePoints:
    """The rows of a file, P >= 1."""

    times: npt.NDArray[np.float64]  # (P,) s, increasing
    f0: npt.NDArray[np.float64]  # (P,) Hz, above 0 in voiced rows; 0 elsewhere = to be filled
    voiced: npt.NDArray[np.bool_]  # (P,)
    confidence: npt.NDArray[np.float64] | None  # (P,)


def csv_text(times: npt.NDArray[np.float64], track: F0Track, delimiter: str = ",") -> str:
    """Write a track as text; `parse_csv` gives back its float32 values to the bit.

    Args:
        times: (N,) s, written to the microsecond.
        track: N frames.
        delimiter: between the columns.
    """
    rows = [delimiter.join(HEADER)]
    confidence: Sequence[str] = [""] * len(track)
    if track.confidence is not None:
        confidence = _exact(track.confidence)
    for time, f0, uv, sure in zip(times.tolist(), _exact(track.f0), track.uv, confidence):
        rows.append(delimiter.join((f"{time:.6f}", f0, "1" if uv > 0 else "0", sure)))
    return "\n".join(rows) + "\n"


def _exact(values: npt.NDArray[np.float32]) -> list[str]:
    """Shortest decimals that are read back as the same float32."""
    texts = [np.format_float_positional(value, trim="0") for value in values]
    back = np.array([float(text) for text in texts], dtype=np.float64).astype(np.float32)
    for i in np.flatnonzero(back != values):  # two roundings, to float64 and on, can miss by a bit
        texts[i] = repr(float(values[i]))
    return texts


def parse_csv(data: bytes, path: str) -> CurvePoints:
    """Read the text of a curve.

    Args:
        data: the file's bytes.
        path: names it in messages.

    Raises:
        CurveError: no text, a column is missing, a row is wrong (with its line), or the pitches
            cannot be in Hz.
    """
    lines = _content(_decode(data, path))
    first = next(lines, None)
    if first is None:
        raise CurveError(f"{path} holds no rows; its first line has to be  {','.join(HEADER)}")
    number, head, separator = first
    delimiter = separator or next((mark for mark in ";\t," if mark in head), None)
    cells = _split(head, delimiter)
    if _is_number(cells[0]):
        if len(cells) != 2:
            raise CurveError(
                f"{path}, line {number}: the names of the columns are missing; begin the file with "
                f"the line  {(delimiter or ' ').join(HEADER)}"
            )
        columns = {"time_s": 0, "f0_hz": 1}
        rows = [(number, cells)]
    else:
        columns, rows = _columns(cells, path, number), []
    rows += [(number, _split(line, delimiter)) for number, line, _ in lines]
    if not rows:
        raise CurveError(f"{path} holds no rows below the names of its columns")
    points = _points(rows, columns, path, len(cells))
    _check_unit(points, path, rows)
    return points


def _decode(data: bytes, path: str) -> str:
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise CurveError(
            f"{path} is neither CSV in UTF-8 nor MIDI; give a pitch curve as  svc f0 extract  "
            "writes it"
        )
    return text


def _content(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Line number, text and announced separator of the lines that say something."""
    separator: str | None = None
    for number, line in enumerate(_LINE_END.split(text), start=1):
        if line.lower().startswith("sep=") and len(line) == 5:  # spreadsheets' own first line
            separator = line[4]
        elif line.strip(' ;,\t"') and not line.lstrip(' "').startswith("#"):
            yield number, line, separator


def _split(line: str, delimiter: str | None) -> list[str]:
    """Cells of a line; without a delimiter they are apart by blanks."""
    if delimiter is None:
        return line.split()
    cells = next(csv.reader([line], delimiter=delimiter)) if '"' in line else line.split(delimiter)
    # A comma that is no separator is a decimal one.
    return [cell.strip().replace(",", ".") for cell in cells]


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell.lower()) is not None


def _columns(cells: Sequence[str], path: str, number: int) -> dict[str, int]:
    """Where the columns are that count; others are the user's notes."""
    columns: dict[str, int] = {}
    for place, cell in enumerate(cells):
        name = _COLUMN.get(" ".join(cell.lower().split()))
        if name in columns:
            raise CurveError(f"{path}, line {number}: there are two columns for {name}")
        if name is not None:
            columns[name] = place
    for name in HEADER[:2]:
        if name not in columns:
            found = ", ".join(cell for cell in cells if cell)
            raise CurveError(
                f"{path}, line {number}: no column {name} (found: {found[:100]}); the first line "
                f"names the columns, like  {','.join(HEADER)}"
            )
    return columns


def _points(
    rows: Sequence[tuple[int, Sequence[str]]], columns: dict[str, int], path: str, width: int
) -> CurvePoints:
    times, f0, voiced, sure = [], [], [], []
    place = [columns.get(name, -1) for name in HEADER]
    earlier = -1.0
    for number, cells in rows:
        where = f"{path}, line {number}"
        if len(cells) > width and any(cells[width:]):
            raise CurveError(
                f"{where}: {len(cells)} cells in {width} columns; numbers with a decimal comma need "
                '";" or tabs between the columns'
            )
        time, pitch, state, belief = (
            cells[column] if 0 <= column < len(cells) else "" for column in place
        )
        second = _value(time, "time_s", where)
        if second < 0 or second <= earlier:
            raise CurveError(
                f"{where}: time_s is {time}"
                + (", below 0" if second < 0 else f" after {earlier:g}; times have to increase")
            )
        hertz = _value(pitch, "f0_hz", where) if pitch else 0.0
        if hertz < 0 or hertz >= _NO_PITCH_HZ:
            raise CurveError(f"{where}: f0_hz is {pitch}; {_UNIT}, and 0 where nothing is voiced")
        sung = _state(state, where) if place[2] >= 0 else hertz > 0
        if sung and hertz == 0:
            raise CurveError(f"{where}: voiced is 1, but f0_hz is {pitch or 'empty'}")
        if place[3] >= 0:
            belief_value = _value(belief, "confidence", where) if belief else 0.0
            if not 0 <= belief_value <= 1:
                raise CurveError(
                    f"{where}: confidence is {belief}, not in 0..1; it is not needed, delete the "
                    "column"
                )
            sure.append(belief_value if belief else -1.0)
        times.append(second)
        f0.append(hertz)
        voiced.append(sung)
        earlier = second
    if place[2] < 0 and place[3] >= 0 and all(voiced):
        raise CurveError(
            f"{path}: no column voiced, and f0_hz is above 0 in every row; add the column voiced "
            "with 1 or 0"
        )
    known = np.array(sure)
    confidence = np.maximum(known, 0.0) if known.size and known.max() >= 0 else None
    return CurvePoints(np.array(times), np.array(f0), np.array(voiced, dtype=np.bool_), confidence)


def _value(cell: str, name: str, where: str) -> float:
    if not _is_number(cell):
        hint = "; write 0 where nothing is voiced" if name == "f0_hz" else ""
        said = f'"{cell[:40]}"' if cell else "empty"
        raise CurveError(f"{where}: {name} is {said}, not a number{hint}")
    return float(cell)


def _state(cell: str, where: str) -> bool:
    text = cell.lower()
    if _is_number(text) and float(text) in (0.0, 1.0):
        return float(text) == 1.0
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise CurveError(f'{where}: voiced is "{cell[:40]}"; it is 1 or 0')


def _check_unit(points: CurvePoints, path: str, rows: Sequence[tuple[int, Sequence[str]]]) -> None:
    """Refuse pitches that are certainly not in Hz; low voices are let through."""
    sung = points.f0[points.voiced]
    if sung.size == 0:
        return
    low, high = float(sung.min()), float(sung.max())
    line = rows[int(np.flatnonzero(points.voiced)[0])][0]
    where = f"{path}, line {line}: f0_hz"
    if high < _LOWEST_HZ:
        raise CurveError(
            f"{where} lies between {low:.4g} and {high:.4g}, which looks like logarithms; {_UNIT}"
        )
    if float(np.median(sung)) > _HIGHEST_HZ:
        raise CurveError(
            f"{where} lies between {low:.6g} and {high:.6g}, which looks like cents, or like "
            f"numbers that lost their decimal point; {_UNIT}"
        )
    # A bass reaches as low in Hz, but not all the time and by whole numbers alone.
    whole = bool((sung == np.rint(sung)).all()) and high > low
    middle = float(np.median(sung))
    lowest, highest = _NOTE_NUMBERS
    if whole and lowest <= low and high <= highest and middle <= _HIGH_NOTE:
        raise CurveError(
            f"{where} holds only whole numbers from {low:g} to {high:g}, which looks like MIDI "
            f"note numbers; {_UNIT}; if it is a very low voice, give Hz with decimals"
        )
    if middle < _LOW_VOICE_HZ:
        logger.warning("%s: half of f0_hz lies below %.4g; %s", path, middle, _UNIT)
