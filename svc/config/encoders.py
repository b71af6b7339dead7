"""Names of content encoders, and how two of them are written as one (spec_encoders 1).

A fusion is written with "+" between the names: ``vec768l12+whisper-ppg-tiny``. One original name
ends in "+" itself (``wavlmbase+``), so a text is read against the list of names, not split.
"""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

from svc.config.schema import nearest
from svc.errors import ConfigError

SPEECH_ENCODER_DIMS: dict[str, int] = {
    "vec768l12": 768,
    "vec256l9": 256,
    "vec256l9-onnx": 256,
    "vec256l12-onnx": 256,
    "vec768l9-onnx": 768,
    "vec768l12-onnx": 768,
    "hubertsoft": 256,
    "hubertsoft-onnx": 256,
    "whisper-ppg": 1024,
    "whisper-ppg-large": 1280,
    "whisper-ppg-tiny": 384,
    "whisper-ppg-base": 512,
    "whisper-ppg-small": 768,
    "cnhubertlarge": 1024,
    "dphubert": 768,
    "wavlmbase+": 768,
}
"""Width of the units of each content encoder; the three small Whispers are ours."""

WIDE_FILTER_ENCODERS = frozenset({"whisper-ppg", "whisper-ppg-large", "cnhubertlarge"})
"""Encoders for which the original also widens filter_channels to the units' width (spec_core 1.6)."""

MAX_FUSED = 2  # encoders in one fusion
_EXAMPLE = "vec768l12+whisper-ppg-tiny"
_SHOWN = 4  # names in one message


def split_encoders(name: str) -> tuple[str, ...]:
    """Return the encoders that a name stands for: one, or the parts of a fusion in their order.

    Args:
        name: e.g. ``"wavlmbase+"`` or ``"vec768l12+whisper-ppg-tiny"``.

    Raises:
        ConfigError: an unknown name (with the nearest known one), the same encoder twice, or more
            than `MAX_FUSED`.
    """
    parts: list[str] = []
    rest = name
    while True:
        fitting = [
            known for known in SPEECH_ENCODER_DIMS if rest == known or rest.startswith(known + "+")
        ]
        if not fitting:
            raise ConfigError(_unknown(rest.partition("+")[0], name))
        part = max(fitting, key=len)
        parts.append(part)
        if rest == part:
            break
        rest = rest[len(part) + 1 :]
    if len(set(parts)) < len(parts) or len(parts) > MAX_FUSED:
        raise ConfigError(
            f'the speech encoder "{name}" is a fusion of {len(parts)}: give two different ones, '
            f'e.g. "{_EXAMPLE}"'
        )
    return tuple(parts)


def _unknown(part: str, name: str) -> str:
    """The message for a part of `name` that is no encoder."""
    if not part:
        return f'the speech encoder "{name}" lacks a name beside the "+"; e.g. "{_EXAMPLE}"'
    where = f' in "{name}"' if part != name else ""
    near = nearest(part, SPEECH_ENCODER_DIMS)
    advice = f'did you mean "{near}"?' if near else f"known: {', '.join(SPEECH_ENCODER_DIMS)}"
    return f'unknown speech encoder "{part}"{where}; {advice}'


def encoder_dim(name: str) -> int:
    """Return the width of the units of an encoder or a fusion. Raises ConfigError for an unknown name."""
    return sum(SPEECH_ENCODER_DIMS[part] for part in split_encoders(name))


def encoders_of_width(width: int) -> list[str]:
    """Return some encoders whose units are so wide: single ones, or fusions where there is none."""
    names = [name for name, dim in SPEECH_ENCODER_DIMS.items() if dim == width]
    if not names:
        pairs = combinations(SPEECH_ENCODER_DIMS, MAX_FUSED)
        names = ["+".join(pair) for pair in pairs if encoder_dim("+".join(pair)) == width]
    return names[:_SHOWN]


def check_encoder_width(
    name: str, ssl_dim: int, *, where: str, advice: str, width: int | None = None
) -> None:
    """Refuse an encoder whose units a model cannot take.

    Args:
        name: the encoder or fusion.
        ssl_dim: width of the units the model takes.
        where: what asks for the encoder, for the message: ``"configs/config.json"``.
        advice: what to do next.
        width: of its units; None: as `encoder_dim` says.

    Raises:
        ConfigError: the widths differ.
    """
    width = encoder_dim(name) if width is None else width
    if width == ssl_dim:
        return
    fitting = encoders_of_width(ssl_dim)
    like = f", like those of {' or '.join(fitting)}" if fitting else ""
    raise ConfigError(
        f'{where} asks for the speech encoder "{name}", whose units are {width} wide, but the model '
        f'takes units {ssl_dim} wide ("model.ssl_dim"){like}: {advice}'
    )


def encoder_paths(name: str, text: str | None, *, what: str = "--encoder_path") -> dict[str, Path]:
    """Read ``--encoder_path``, which is also the value of ``model.encoder_path``.

    Args:
        name: the encoder or fusion.
        text: ``PATH``, or ``ID=PATH`` with several separated by commas; None or "" for none. "~"
            is the home folder.
        what: flag or key that holds the text, for messages.

    Returns:
        Weight file or folder by encoder id, for those that are named.

    Raises:
        ConfigError: a fusion whose path does not say which encoder it is for, an id that is not
            part of `name`, or one given twice.
    """
    parts = split_encoders(name)
    if not text:
        return {}
    # A path may hold "=" and ",": only a known name before "=" is an id.
    known = "|".join(re.escape(part) for part in sorted(SPEECH_ENCODER_DIMS, key=len)[::-1])
    if not re.match(f"(?:{known})=", text):
        if len(parts) > 1:
            raise ConfigError(
                f'{what} {text}: "{name}" is two encoders, say whose file it is: {parts[0]}={text}'
            )
        return {parts[0]: Path(text).expanduser()}
    found: dict[str, Path] = {}
    for item in re.split(f",(?=(?:{known})=)", text):
        part, _, path = item.partition("=")
        if part not in parts or not path or part in found:
            raise ConfigError(
                f"{what} {item}: expected one ID=PATH for each ID of {', '.join(parts)}"
            )
        found[part] = Path(path).expanduser()
    return found
