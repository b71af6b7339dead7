"""Names of pitch predictors, and how several are written as one.

An ensemble of chosen members is written ``ensemble:fcpe+swift+pm``; ``ensemble`` alone stands for
`ENSEMBLE_MEMBERS`.
"""

from __future__ import annotations

from svc.config.schema import nearest
from svc.errors import ConfigError

SINGLE_PREDICTORS = ("pm", "dio", "harvest", "crepe", "crepe-tiny", "rmvpe", "fcpe", "swift")
"""Predictors of their own; so-vits-svc 4.1 has all but crepe-tiny and swift."""

F0_PREDICTORS = (*SINGLE_PREDICTORS, "ensemble", "auto")
"""Every id; ``ensemble:a+b+c`` is one as well."""

ENSEMBLE_MEMBERS = ("fcpe", "swift", "crepe-tiny")
"""Members of `ensemble` where none are named."""

_PREFIX = "ensemble:"
_EXAMPLE = f"{_PREFIX}fcpe+crepe-tiny+pm"


def ensemble_members(name: str) -> tuple[str, ...]:
    """Return the members of an ensemble in their order; none for any other predictor.

    Args:
        name: e.g. ``"pm"``, ``"ensemble"``, ``"ensemble:fcpe+crepe-tiny+pm"``.

    Raises:
        ConfigError: an unknown predictor (with the nearest known one), an ensemble of fewer than
            two, or one that is in it twice.
    """
    if name == "ensemble":
        return ENSEMBLE_MEMBERS
    if not name.startswith(_PREFIX):
        if name not in F0_PREDICTORS:
            raise ConfigError(_unknown(name, F0_PREDICTORS))
        return ()
    members = tuple(name.removeprefix(_PREFIX).split("+"))
    for member in members:
        if member not in SINGLE_PREDICTORS:
            raise ConfigError(f"{_unknown(member, SINGLE_PREDICTORS)}; e.g. {_EXAMPLE}")
    if len(members) < 2 or len(set(members)) < len(members):
        raise ConfigError(
            f'"{name}" is no ensemble: it takes two or more different predictors, e.g. {_EXAMPLE}'
        )
    return members


def check_f0_predictor(name: str) -> str:
    """Return the id of a predictor or an ensemble as it is. Raises ConfigError for another text."""
    ensemble_members(name)
    return name


def _unknown(name: str, known: tuple[str, ...]) -> str:
    near = nearest(name, known)
    hint = f'; did you mean "{near}"?' if near else ""
    return f'unknown F0 predictor "{name}"{hint}; available: {", ".join(known)}'
