"""Mixes of speakers as CSV: one segment per row, ``speaker,start,end,from,to``.

Times are fractions of the song; they are seconds where the columns are called start_s and end_s,
where a column ``unit`` says so, or below the line ``# unit: seconds``. Read as spreadsheets leave
it: ";" or tabs, then also with a decimal comma; columns moved or added; comments after "#".
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

from svc.conversion.mix_segments import END, MixContent, MixSegment, Track, Unit, parse_unit, plain
from svc.errors import ConfigError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_UNIT_LINE = re.compile(r"#\s*unit\s*[:=]\s*(\w+)", re.IGNORECASE)
_COLUMNS = ("speaker", "start", "end", "from", "to")


def parse_csv(text: str, what: str) -> MixContent:
    """Read a mix from CSV.

    Args:
        text: of the file.
        what: its name, for messages.

    Raises:
        ConfigError: a column or cell is missing or wrong; names the line.
    """
    unit: Unit | None = None
    for line in text.splitlines():
        if found := _UNIT_LINE.match(line.strip(' ",;\t')):
            unit = parse_unit(found[1], what)
    lines = [line for line in text.splitlines() if _says_something(line)]
    head = lines[0] if lines else ""
    delimiter = next((mark for mark in ";\t" if mark in head), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: dict[str, int] = {}
    tracks: dict[str, list[MixSegment]] = {}
    try:
        for row in reader:
            if not _says_something(delimiter.join(row)):
                continue
            where = f"{what}, line {reader.line_num}"
            if not columns:
                columns, named = _columns(row, where)
                unit = _agreed(unit, named, where)
                continue
            cells = [row[columns[name]].strip() for name in columns if columns[name] < len(row)]
            if len(cells) < len(columns) or not cells[0]:
                raise ConfigError(f"{where}: write a cell for each of {', '.join(columns)}")
            if "unit" in columns:
                unit = _agreed(unit, parse_unit(cells[-1], where), where)
            track = tracks.setdefault(cells[0], [])
            place = f'{where}: speaker "{cells[0]}", segment {len(track) + 1}'
            track.append(_row_segment(cells[1:5], place, delimiter != ","))
    except csv.Error as error:
        raise ConfigError(f"{what}, line {reader.line_num}: {error}") from None
    if not tracks:
        raise ConfigError(
            f"{what} holds no segments; write a line  {','.join(_COLUMNS)}  and below it one line "
            "per segment"
        )
    return MixContent({name: tuple(track) for name, track in tracks.items()}, unit or "fraction")


def _says_something(line: str) -> bool:
    return bool(line.strip(' ,;\t"')) and not line.lstrip(' "').startswith("#")


def _columns(row: Sequence[str], where: str) -> tuple[dict[str, int], Unit | None]:
    """Where the columns are, speaker first and unit last, and the unit that their names say."""
    names = [cell.strip().lower() for cell in row]
    unit: Unit | None = None
    if "start_s" in names or "end_s" in names:
        unit = "seconds"
        names = [
            name.removesuffix("_s") if name in ("start_s", "end_s") else name for name in names
        ]
    for name in _COLUMNS:
        if names.count(name) != 1:
            how = "no column" if name not in names else "two columns"
            raise ConfigError(
                f"{where}: {how} {name}; the first line names the columns:  {','.join(_COLUMNS)}"
            )
    wanted = [*_COLUMNS, *(["unit"] if "unit" in names else [])]
    return {name: names.index(name) for name in wanted}, unit


def _agreed(unit: Unit | None, other: Unit | None, where: str) -> Unit | None:
    if unit is not None and other is not None and unit != other:
        raise ConfigError(f"{where}: times in {unit} and in {other}; write all in one unit")
    return unit or other


def _row_segment(cells: Sequence[str], where: str, decimal_comma: bool) -> MixSegment:
    values: list[float | None] = []
    for name, cell in zip(_COLUMNS[1:], cells):
        if name == END and cell.lower() in ("", END):
            values.append(None)
            continue
        number = cell.replace(",", ".") if decimal_comma else cell
        if not NUMBER.fullmatch(number):
            hint = ', or "end" in the last segment' if name == END else ""
            raise ConfigError(f'{where}: {name} is "{cell}"; write a number{hint}')
        values.append(float(number))
    start, end, first, last = values
    return MixSegment(start or 0.0, end, first or 0.0, last or 0.0)


def csv_text(tracks: Mapping[str, Track], unit: Unit) -> str:
    """Write tracks as CSV, which `parse_csv` reads back. Raises ConfigError for a name that it cannot
    hold.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    mark = "_s" if unit == "seconds" else ""
    writer.writerow([name + mark if name in ("start", END) else name for name in _COLUMNS])
    for name, track in tracks.items():
        if not _says_something(name) or name != name.strip() or len(name.splitlines()) > 1:
            raise ConfigError(f'CSV cannot hold the name "{name}" of a speaker; write .json')
        for s in track:
            writer.writerow([name, *(plain(x) for x in (s.start, s.end, s.first, s.last))])
    return out.getvalue()
