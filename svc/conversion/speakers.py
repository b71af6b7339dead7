"""Which speaker is meant: by name, by number, or by a number written as text."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from svc.errors import ConfigError

_MAX_LISTED = 30


def find_speaker(speakers: Mapping[str, int], wanted: str | int) -> tuple[str, int]:
    """Look a speaker up.

    A name wins over a number, so a speaker called "7" is found by its name. Numbers must be ids
    that the config lists (so-vits-svc 4.1 accepted one more, behaviour I10, spec_core 10).

    Args:
        speakers: name -> id, the `spk` table of the config.
        wanted: a name, an id, or an id written as text.

    Returns:
        ``(name, id)``.

    Raises:
        ConfigError: no such speaker; the message lists the known ones, nearest name first.
    """
    if isinstance(wanted, str):
        if wanted in speakers:
            return wanted, speakers[wanted]
        number = int(wanted) if wanted.strip().isdecimal() else None
    else:
        number = int(wanted)
    if number is not None:
        for name, speaker_id in speakers.items():
            if speaker_id == number:
                return name, speaker_id
    if not speakers:
        raise ConfigError(
            f'unknown speaker "{wanted}": the config has an empty "spk" table; '
            'add {"name": id} to it'
        )
    raise ConfigError(
        f'unknown speaker "{wanted}": this model knows {list_speakers(speakers, str(wanted))}'
    )


def only_speaker(speakers: Mapping[str, int]) -> str:
    """Name of the one speaker of a model.

    Raises:
        ConfigError: the model has several (they are listed) or none.
    """
    if len(speakers) == 1:
        return next(iter(speakers))
    if not speakers:
        raise ConfigError('the config has an empty "spk" table; add {"name": id} to it')
    raise ConfigError(
        f"this model has {len(speakers)} speakers, choose with -s NAME: {list_speakers(speakers)}"
    )


def list_speakers(speakers: Mapping[str, int], near: str | None = None) -> str:
    """Names with their ids, the most similar to `near` first, at most 30 of them."""

    def distance(name: str) -> float:
        if near is None:
            return 0.0
        return -difflib.SequenceMatcher(None, near.casefold(), name.casefold()).ratio()

    names = sorted(speakers, key=lambda name: (distance(name), speakers[name]))
    text = ", ".join(f'"{name}" ({speakers[name]})' for name in names[:_MAX_LISTED])
    hidden = len(names) - _MAX_LISTED
    return f"{text} and {hidden} more" if hidden > 0 else text
