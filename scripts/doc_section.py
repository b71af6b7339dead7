"""Replace one section of a Markdown file and keep the rest.

    python scripts/doc_section.py FILE NAME < body.md

A section lies between the comments `<!-- NAME: begin -->` and `<!-- NAME: end -->`; where there is
none yet, it is added at the end. The scripts that write tables into docs/ use `write_section`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from svc.atomic import write_text
from svc.errors import SvcError

_NAME = re.compile(r"[a-z0-9][a-z0-9 _-]*")


def replace_section(text: str, name: str, body: str) -> str:
    """Return `text` with `body` as its section `name`.

    Raises:
        ValueError: a name that is no comment, or markers that are alone, doubled or the wrong way
            round.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f'"{name}" is no name of a section: small letters, digits, "-", "_"')
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin in body or end in body:
        raise ValueError(f'the new text of the section "{name}" holds its own markers')
    section = f"{begin}\n\n{body.strip()}\n\n{end}"
    counts = text.count(begin), text.count(end)
    if counts == (0, 0):
        return f"{text.rstrip()}\n\n{section}\n".lstrip()
    if counts != (1, 1) or text.index(begin) > text.index(end):
        raise ValueError(
            f'the section "{name}" needs one "{begin}" and one "{end}" behind it, found {counts}'
        )
    before, rest = text.split(begin)
    return before + section + rest.split(end)[1]


def write_section(path: Path, name: str, body: str) -> None:
    """Replace the section `name` of the file `path`, which need not exist yet.

    Raises:
        ValueError: damaged markers; the file is left as it is.
        SvcError: the file cannot be written.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    try:
        replaced = replace_section(text, name, body)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    write_text(path, replaced)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="Markdown file")
    parser.add_argument("name", help="name of the section; its new text comes from standard input")
    args = parser.parse_args(arguments)
    try:
        write_section(args.file, args.name, sys.stdin.read())
    except (ValueError, OSError, SvcError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
