"""Mixes of speakers as text: ``alice=0.7,bob=0.3``, JSON, CSV, and the old spkmix.py.

JSON, times as fractions of the song, as so-vits-svc 4.1 has them (spec_core 8.6)::

    {"alice": [[0, 0.5, 1, 0], [0.5, 1, 0, 0]], "bob": [[0, 1, 0, 1]]}

each segment being [start, end, weight at start, weight at end]; or with a unit::

    {"unit": "seconds", "speakers": {"alice": [[0, 30, 1, 0], [30, "end", 0, 0]], "bob": 0.5}}

CSV, one segment per row, read as spreadsheets leave it (";" or tabs, then also decimal commas)::

    speaker,start,end,from,to          or  speaker,start_s,end_s,from,to  for seconds,
    alice,0,0.5,1,0                    or the line  # unit: seconds

An spkmix.py is never run: it is read if it holds one dictionary of plain numbers and nothing else.
"""

from __future__ import annotations

import ast
import json
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from svc.atomic import write_text
from svc.conversion.mix_csv import NUMBER, csv_text, parse_csv
from svc.conversion.mix_segments import (
    END,
    MixContent,
    MixSegment,
    Track,
    Unit,
    parse_unit,
    plain,
)
from svc.conversion.speaker_mix import SpeakerMix
from svc.errors import ConfigError, MissingFileError

SUFFIXES = (".json", ".csv")
_OLD = ".py"
_EXAMPLE = '{"alice": [[0, 0.5, 1, 0], [0.5, 1, 0, 0]], "bob": [[0, 1, 0, 1]]}'
_SHAPE = "[start, end, weight at start, weight at end]"


def parse_mix(text: str | Path, speakers: Mapping[str, int] | None = None) -> SpeakerMix:
    """Read a mix: ``alice=0.7,bob=0.3``, or a file.

    Args:
        text: shares of speakers by name or id, or the path of a .json, a .csv or an old spkmix.py.
        speakers: name -> id, the `spk` table of the config; None = whoever the text names, in its
            order.

    Returns:
        The mix.

    Raises:
        MissingFileError: no such file.
        ConfigError: it cannot be read, names an unknown speaker, or has a wrong segment; one line
            with file, speaker, segment and what to write instead.
    """
    path = Path(text)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        return _parse_shares(str(text), speakers)
    what = str(path)
    content = reader(_read(path), what)
    tracks = content.tracks
    if speakers is None:
        tracks = {str(name): track for name, track in tracks.items()}
        speakers = _own_table(tracks)
    return SpeakerMix.of(tracks, speakers, unit=content.unit, what=what)


def write_mix(path: str | Path, mix: SpeakerMix) -> None:
    """Write a mix; `parse_mix` reads the same one back.

    Args:
        path: .json or .csv; folders are created.
        mix: what to write.

    Raises:
        ConfigError: another suffix, or a name that CSV cannot hold.
        OutputError: the file cannot be written.
    """
    file = Path(path)
    check_suffix(file)
    tracks = {
        name: track for name, track in zip(mix.speakers, mix.tracks) if name is not None and track
    }
    writer = _json_text if file.suffix.lower() == ".json" else csv_text
    write_text(file, writer(tracks, mix.unit))


def check_suffix(path: Path) -> None:
    """Raise ConfigError for a file name that tells neither JSON nor CSV."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"cannot write {path}: end the name with .json or .csv")


def song_seconds(name: str) -> float:
    """Length of a song, which is found as by ``svc infer -n``.

    Raises:
        MissingFileError: no such song.
        AudioError: it cannot be read.
        ConfigError: the name is that of a folder.
    """
    from svc.audio.io import audio_info
    from svc.conversion.names import find_sources

    sources = find_sources(name)
    if len(sources) != 1:
        raise ConfigError(f"{name} is a folder; give one song")
    info = audio_info(sources[0].path)
    return info.n_samples / info.sr


# ------------------------------------------------------------------------------ text


def _parse_shares(text: str, speakers: Mapping[str, int] | None) -> SpeakerMix:
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, sign, share = (part.strip() for part in item.rpartition("="))
        if not sign or not name:
            raise ConfigError(
                f'the mix of speakers "{text}" is neither NAME=WEIGHT,NAME=WEIGHT, like '
                "alice=0.7,bob=0.3, nor the path of a .json or .csv file; write one of them"
            )
        if name in shares:
            raise ConfigError(f'the mix {text} has "{name}" twice; write each speaker once')
        if not NUMBER.fullmatch(share):
            raise ConfigError(
                f'the mix {text}: the weight of "{name}" is "{share}"; write a number of 0 or more'
            )
        shares[name] = float(share)
    table = _own_table(shares) if speakers is None else speakers
    return SpeakerMix.constant(shares, table, what=f"the mix {text}")


def _own_table(names: Iterable[Any]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"the mix of speakers {path} is not there; check the path") from None
    except IsADirectoryError:
        raise ConfigError(f"the mix of speakers {path} is a folder; name a file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"the mix of speakers {path} cannot be read: {error}") from error
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError(f"{path}: not a text file in UTF-8; save it as UTF-8")
    return text


# ------------------------------------------------------------------------------ JSON and Python


def _parse_json(text: str, what: str) -> MixContent:
    try:
        raw = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, what))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{what}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}; "
            f"write it like  {_EXAMPLE}"
        ) from None
    except (RecursionError, ValueError):  # nested without end, numbers of thousands of digits
        raise ConfigError(f"{what}: no mix of speakers; write it like  {_EXAMPLE}") from None
    unit: Unit = "fraction"
    if isinstance(raw, dict) and isinstance(raw.get("speakers"), dict):
        other = sorted(set(raw) - {"unit", "speakers"})
        if other:
            raise ConfigError(f'{what}: unknown key "{other[0]}"; beside "speakers" write "unit"')
        unit = parse_unit(raw.get("unit", unit), what)
        raw = raw["speakers"]
    return MixContent(_tracks(raw, what), unit)


def _unique(pairs: Sequence[tuple[Any, Any]], what: str) -> dict[Any, Any]:
    """Build an object, of which the second of two equal keys would hide the first."""
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError(f'{what}: "{key}" is there twice; put its segments into one list')
        found[key] = value
    return found


def _parse_old(text: str, what: str) -> MixContent:
    """Read an spkmix.py as text: nothing of it is run."""
    advice = (
        f"{what}: Python is not run here, and this file is more than one dictionary of numbers; "
        f"write the map as JSON, like  {_EXAMPLE}  into a .json file"
    )
    try:
        body = ast.parse(text).body
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:]  # the text that says what the file is
        if len(body) != 1 or not isinstance(body[0], ast.Assign | ast.AnnAssign):
            raise ConfigError(advice)
        value = body[0].value
        if not isinstance(value, ast.Dict):
            raise ConfigError(advice)
        keys = [ast.literal_eval(key) if key else None for key in value.keys]
        pairs = list(zip(keys, [ast.literal_eval(item) for item in value.values]))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ConfigError(advice) from None
    if not all(isinstance(key, int | str) and not isinstance(key, bool) for key in keys):
        raise ConfigError(advice)
    return MixContent(_tracks(_unique(pairs, what), what))


def _tracks(raw: object, what: str) -> dict[str | int, Track]:
    """Turn parsed lists into tracks; a number alone is a weight for the whole song."""
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(f"{what}: no mix of speakers; write it like  {_EXAMPLE}")
    tracks: dict[str | int, Track] = {}
    for name, segments in raw.items():
        where = f'{what}: speaker "{name}"'
        if _is_number(segments):
            segments = [[0, END, segments, segments]]
        if not isinstance(segments, list | tuple):
            raise ConfigError(f"{where}: write a list of segments, each {_SHAPE}")
        tracks[name] = tuple(
            _segment(segment, f"{where}, segment {number}")
            for number, segment in enumerate(segments, start=1)
        )
    return tracks


def _segment(raw: object, where: str) -> MixSegment:
    if not isinstance(raw, list | tuple) or len(raw) != 4:
        raise ConfigError(f"{where} is {reprlib.repr(raw)}; write {_SHAPE}")
    start, end, first, last = raw
    for what, value in zip(("start", END, "weight", "weight"), raw):
        if not (_is_number(value) or (what == END and value in (None, END))):
            hint = ', or "end" in the last segment' if what == END else ""
            raise ConfigError(f"{where}: its {what} is {reprlib.repr(value)}; write a number{hint}")
    stop = None if end in (None, END) else _float(end)
    return MixSegment(_float(start), stop, _float(first), _float(last))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits; refused later
        return float("inf")


_READERS: Mapping[str, Callable[[str, str], MixContent]] = {
    ".json": _parse_json,
    ".csv": parse_csv,
    _OLD: _parse_old,
}


# ------------------------------------------------------------------------------ writing


def _json_text(tracks: Mapping[str, Track], unit: Unit) -> str:
    rows = [
        f"{json.dumps(name, ensure_ascii=False)}: "
        + json.dumps([[plain(s.start), plain(s.end), plain(s.first), plain(s.last)] for s in t])
        for name, t in tracks.items()
    ]
    # The plain form holds as long as no speaker is called like a key of the other one.
    if unit == "fraction" and "speakers" not in tracks:
        return "{\n  " + ",\n  ".join(rows) + "\n}\n"
    inside = ",\n    ".join(rows)
    return f'{{\n  "unit": "{unit}",\n  "speakers": {{\n    {inside}\n  }}\n}}\n'
