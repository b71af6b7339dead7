"""What a cover is made of: its stems, from flags and from a plan file.

A plan is JSON, a list of stems or ``{"stems": [...]}``; paths are those from the plan's folder::

    {"stems": [
      {"file": "lead.wav", "role": "lead", "speaker": "alice", "cluster_ratio": 0.3},
      {"file": "high.wav", "role": "backing", "transpose": 12, "gain_db": -3, "pan": 0.4},
      {"file": "inst.flac", "role": "keep"}
    ]}
"""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from svc.conversion.options import InferOptions, Mode, with_transposition
from svc.conversion.speakers import find_speaker
from svc.errors import ConfigError, MissingFileError

Role = Literal["lead", "backing", "keep"]
ROLES: tuple[Role, ...] = get_args(Role)

MOST_GAIN_DB = 60.0
_OWN_KEYS = ("file", "role", "speaker", "transpose", "gain_db", "pan")
_OPTION_KEYS = tuple(
    item.name for item in fields(InferOptions) if item.name not in ("transpose", "fit_to_voice")
)
_STEM_NAMES = {"lead": "lead", "backing": "backing", "keep": "instrumental"}


@dataclass(frozen=True)
class Entry:
    """A stem as the user names it.

    Attributes:
        path: its file.
        role: lead and backing are sung, "keep" is left as it is.
        settings: of `_OWN_KEYS` and of `InferOptions`, checked; what is not there is as for all stems.
        where: for messages.
    """

    path: Path
    role: Role
    settings: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class Defaults:
    """What holds for stems that say nothing else.

    Raises:
        ConfigError: a gain is out of its range.
    """

    speaker: str
    options: InferOptions
    backing_transpose: float | None = None  # semitones; None = as the lead (--backing_transpose)
    keep_backing: bool = False  # backing vocals stay as they are (--keep_backing)
    lead_gain: float = 0.0  # dB (--lead_gain)
    backing_gain: float = 0.0  # dB (--backing_gain)
    keep_gain: float = 0.0  # dB (--instrumental_gain)

    def __post_init__(self) -> None:
        _check_gain("--lead_gain", self.lead_gain)
        _check_gain("--backing_gain", self.backing_gain)
        _check_gain("--instrumental_gain", self.keep_gain)


@dataclass(frozen=True)
class Stem:
    """A stem, and what becomes of it.

    Attributes:
        path: its file.
        name: of its result, without a suffix: lead, backing_2, instrumental.
        role: what it is.
        gain_db: after its loudness has been matched.
        pan: -1 left to 1 right, see `svc.audio.mixdown.balance`.
        speaker: who sings it; "" = it stays as it is.
        options: how it is sung.
    """

    path: Path
    name: str
    role: Role
    gain_db: float = 0.0
    pan: float = 0.0
    speaker: str = ""
    options: InferOptions = field(default_factory=InferOptions)

    @property
    def sung(self) -> bool:
        """A voice sings it."""
        return bool(self.speaker)


def read_plan(path: Path) -> list[Entry]:
    """Read a plan.

    Raises:
        MissingFileError: it is not there.
        ConfigError: it is no JSON, or a stem has a wrong key or value; one line that names both.
    """
    try:
        raw = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise MissingFileError(f"--plan {path} is not there; check the path") from error
    except OSError as error:
        raise ConfigError(f"--plan {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--plan {path} is no JSON: {error}") from error
    if isinstance(raw, dict):
        _check_keys(raw, ("stems",), str(path))
        raw = raw.get("stems")
    if not isinstance(raw, list) or not raw:
        raise ConfigError(f'--plan {path}: give a list of stems, {{"stems": [{{"file": ...}}]}}')
    return [_entry(item, path, f"{path}: stem {n}") for n, item in enumerate(raw, 1)]


def listed(
    lead: Sequence[Path], backing: Sequence[Path], instrumental: Sequence[Path]
) -> list[Entry]:
    """Return stems of which nothing but the role is known."""
    roles: list[tuple[Role, Sequence[Path]]] = [
        ("lead", lead), ("backing", backing), ("keep", instrumental),
    ]  # fmt: skip
    return [Entry(path, role) for role, paths in roles for path in paths]


def in_octaves(transpose: float | str) -> float | str:
    """Return what "auto" means in a cover: whole octaves, so that all stems keep their common key."""
    return "auto-octave" if transpose == "auto" else transpose


def make_stems(entries: Sequence[Entry], defaults: Defaults) -> list[Stem]:
    """Give every stem its settings and its name.

    Args:
        entries: the stems.
        defaults: for what they do not say.

    Raises:
        ConfigError: there is nothing to sing, a file is there twice, or an option is out of its range.
    """
    if not entries:
        raise ConfigError(
            "no stems: give --lead FILE and --instrumental FILE, a --plan, or a song and a --separator"
        )
    seen: set[Path] = set()
    for entry in entries:
        place = entry.path.resolve()
        if place in seen:
            raise ConfigError(f"{entry.path} is there twice among the stems; leave one of them out")
        seen.add(place)
    total = Counter(entry.role for entry in entries)
    count: Counter[str] = Counter()
    stems = []
    for entry in entries:
        count[entry.role] += 1
        name = _STEM_NAMES[entry.role]
        if total[entry.role] > 1:
            name += f"_{count[entry.role]}"
        stems.append(_stem(entry, name, defaults))
    if not any(stem.sung for stem in stems):
        raise ConfigError("nothing to sing: all stems are kept as they are; give --lead FILE")
    return stems


def with_speakers(stems: Sequence[Stem], speakers: Mapping[str, int]) -> list[Stem]:
    """Write the names of who sings as the voice does. Raises ConfigError for one it does not know."""
    return [
        replace(stem, speaker=find_speaker(speakers, stem.speaker)[0]) if stem.sung else stem
        for stem in stems
    ]


def _stem(entry: Entry, name: str, defaults: Defaults) -> Stem:
    given = entry.settings
    gains = {
        "lead": defaults.lead_gain, "backing": defaults.backing_gain, "keep": defaults.keep_gain,
    }  # fmt: skip
    stem = Stem(
        entry.path,
        name,
        entry.role,
        gain_db=float(given.get("gain_db", gains[entry.role])),
        pan=float(given.get("pan", 0.0)),
    )
    if entry.role == "keep" or (entry.role == "backing" and defaults.keep_backing):
        return stem
    options = defaults.options
    transpose = given.get("transpose")
    if transpose is None and entry.role == "backing":
        transpose = defaults.backing_transpose
    try:
        if transpose is not None:
            options = with_transposition(options, in_octaves(transpose))
        options = replace(options, **{key: given[key] for key in _OPTION_KEYS if key in given})
    except ConfigError as error:
        raise ConfigError(f"{entry.where}: {error}" if entry.where else str(error)) from error
    return replace(stem, speaker=str(given.get("speaker", defaults.speaker)), options=options)


def _entry(item: object, plan: Path, where: str) -> Entry:
    if not isinstance(item, dict):
        raise ConfigError(f'{where} is {item!r}: give {{"file": ..., "role": ...}}')
    _check_keys(item, (*_OWN_KEYS, *_OPTION_KEYS), where)
    for key in ("file", "role"):
        if not isinstance(item.get(key), str) or not item[key]:
            raise ConfigError(f'{where} needs a "{key}", a text')
    role = next((name for name in ROLES if name == item["role"]), None)
    if role is None:
        raise ConfigError(f'{where}: "role" is "{item["role"]}": choose {", ".join(ROLES)}')
    settings = {key: value for key, value in item.items() if key not in ("file", "role")}
    idle = [key for key in settings if key not in ("gain_db", "pan")]
    if role == "keep" and idle:
        raise ConfigError(
            f'{where}: "{idle[0]}" has no effect on a stem that is kept; leave it out'
        )
    for key, value in settings.items():
        _check_type(key, value, where)
    if "gain_db" in settings:
        _check_gain(f'{where}: "gain_db"', settings["gain_db"])
    if not -1.0 <= settings.get("pan", 0.0) <= 1.0:
        raise ConfigError(f'{where}: "pan" is {settings["pan"]}: give a number from -1 to 1')
    return Entry(plan.parent / item["file"], role, settings, where)


def _check_keys(item: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in item:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(known)}"
            raise ConfigError(f'{where}: unknown key "{key}"; {hint}')


def _check_type(key: str, value: object, where: str) -> None:
    """Raise ConfigError for a value of another type than the key's."""
    if key == "transpose" and value in ("auto", "auto-octave"):
        return
    if key == "mode":
        good, what = value in get_args(Mode), f"one of {', '.join(get_args(Mode))}"
    elif key == "speaker":
        good, what = isinstance(value, str | int) and not isinstance(value, bool), "a name"
    elif isinstance(_DEFAULTS.get(key), bool):
        good, what = isinstance(value, bool), "true or false"
    elif isinstance(_DEFAULTS.get(key), int):
        good, what = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    else:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        good, what = good and math.isfinite(value), "a number"  # type: ignore[arg-type]
    if not good:
        raise ConfigError(f'{where}: "{key}" is {json.dumps(value)}: give {what}')


def _check_gain(what: str, value: float) -> None:
    if not math.isfinite(value) or abs(value) > MOST_GAIN_DB:
        most = f"{MOST_GAIN_DB:g}"
        raise ConfigError(f"{what} is {value:g}: give a number of dB from -{most} to {most}")


_DEFAULTS = {item.name: item.default for item in fields(InferOptions)}
