"""The command's own promises: one line for an error, whatever is in it."""

from __future__ import annotations

import pytest

from svc.cli import main as cli
from svc.errors import SvcError


def test_an_error_is_one_printable_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: object) -> int:
        raise SvcError("a name\nfrom a file: \x1b[31mred\x07, Größe, 歌")

    class Module:
        add_arguments = staticmethod(lambda parser: None)

    Module.run = staticmethod(run)  # type: ignore[attr-defined]
    monkeypatch.setattr(cli, "module_of", lambda command: Module)
    assert cli.main(["demo"]) == 2
    shown = capsys.readouterr().err
    assert shown == "svc: error: a name from a file: \\x1b[31mred\\x07, Größe, 歌\n"
