"""What an inspection finds out: the parts of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svc.inspection.settings import Settings

Fact = bool | int | float | str | list[Any] | dict[str, Any] | None
"""A value that JSON can hold; None: the content cannot tell."""

UNKNOWN = "unknown"
"""Kind of what svc does not know."""


@dataclass(frozen=True)
class Safety:
    """How a file was read, and what an ordinary loader would have done with it."""

    safe: bool | None
    """None: it is damaged before that can be told."""
    how: str
    """Why, without a final stop."""
    harmless: int | None = None
    """Callables that its pickle names and that only make tensors or stand for bookkeeping; None: it
    holds no pickle."""
    refused: tuple[str, ...] = ()
    """Callables that its pickle names and that could do anything."""


@dataclass(frozen=True)
class Finding:
    """What a recogniser says about a content."""

    kind: str
    """Short, for scripts: "voice"."""
    what: str
    """In words, for people."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """What the content tells, under the names that config files use where they have one."""
    fits: tuple[str, ...] = ()
    """What it can be used with."""
    notes: tuple[str, ...] = ()
    """What its user should know."""
    damage: str | None = None
    """Why it cannot be used, though it could be read."""
    safety: Safety | None = None
    """Where the recogniser knows better than the reader."""
    compare: Callable[[Settings], list[str] | None] | None = None
    """Differences from a config, in words; None where that config says nothing about this kind."""
    beside: tuple[str, ...] = ()
    """Patterns of names that a config beside it may have."""


@dataclass(frozen=True)
class Match:
    """The comparison with a config."""

    path: Path
    differences: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether there is no difference."""
        return not self.differences


@dataclass(frozen=True)
class Known:
    """The published file that this one is, or has the size of."""

    name: str
    what: str
    source: str
    licence: str
    checked: bool
    """The SHA-256 agrees; False: only the size does, the content was not compared."""


@dataclass(frozen=True)
class Report:
    """All that is said about one file or folder."""

    path: Path
    finding: Finding
    safety: Safety
    size: int
    """Bytes; of a folder those of the files in it."""
    sha256: str | None = None
    known: Known | None = None
    match: Match | None = None
    notes: tuple[str, ...] = ()
    """Further notes, after those of the finding."""

    @property
    def damage(self) -> str | None:
        """Why it cannot be used."""
        return self.finding.damage

    @property
    def good(self) -> bool:
        """Whether it is neither unsafe nor damaged."""
        return self.damage is None and self.safety.safe is not False

    def to_plain(self) -> dict[str, Any]:
        """Return the report for JSON."""
        finding, known, match = self.finding, self.known, self.match
        return {
            "path": str(self.path),
            "kind": finding.kind,
            "what": finding.what,
            "bytes": self.size,
            "sha256": self.sha256,
            "good": self.good,
            "safe": self.safety.safe,
            "read": self.safety.how,
            "harmless_callables": self.safety.harmless,
            "refused_callables": list(self.safety.refused),
            "damage": self.damage,
            "facts": dict(finding.facts),
            "fits": list(finding.fits),
            "config": match
            and {
                "path": str(match.path),
                "fits": match.fits,
                "differences": list(match.differences),
            },
            "published": known
            and {
                "name": known.name,
                "what": known.what,
                "source": known.source,
                "licence": known.licence,
                "checked": known.checked,
            },
            "notes": [*finding.notes, *self.notes],
        }
