"""The command's own promises: one line for an error, whatever is in it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svc.cli import main as cli
from svc.errors import SvcError

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[[Callable[[Any], int]], None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Put a function in the place of every sub-command."""

    def stand_in(run: Callable[[Any], int]) -> None:
        class Module:
            add_arguments = staticmethod(lambda parser: None)

        Module.run = staticmethod(run)  # type: ignore[attr-defined]
        monkeypatch.setattr(cli, "module_of", lambda command: Module)

    return stand_in


def in_a_process(body: str, *, name: str = "demo", **options: Any) -> subprocess.Popen[bytes]:
    """Start a sub-command whose work is `body`, in a process whose stdout is strict UTF-8."""
    code = (
        "import sys\nfrom svc.cli import main as cli\n"
        f"def run(args):\n{body}\n    return 0\n"
        "class Module:\n    add_arguments = staticmethod(lambda parser: None)\n"
        "    run = staticmethod(run)\n"
        f"cli.module_of = lambda command: Module\nsys.exit(cli.main(['{name}']))\n"
    )
    settings = {"PYTHONIOENCODING": "utf-8:strict", "PYTHONUNBUFFERED": ""}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, **options
    )


def test_an_error_is_one_printable_line(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: object) -> int:
        raise SvcError("a name\nfrom a file: \x1b[31mred\x07, Größe, 歌")

    command(run)
    assert cli.main(["demo"]) == 2
    shown = capsys.readouterr().err
    assert shown == "svc: error: a name from a file: \\x1b[31mred\\x07, Größe, 歌\n"


def test_names_that_are_no_unicode_are_printed() -> None:
    done = in_a_process("    print('caf\\udce9.wav')", stdout=subprocess.PIPE)
    out, err = done.communicate()
    assert (done.returncode, out.strip(), err) == (0, b"caf\\udce9.wav", b"")


def test_streams_that_cannot_be_set_up_stay(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bare:
        write = staticmethod(lambda text: None)
        flush = staticmethod(lambda: None)

    command(lambda args: 0)
    for stream in (Bare(), None):
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["demo"]) == 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/private/G.pth"),
            "/private/G.pth: Pe",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", b"a\nb"), "a b: File name too long"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    command: Command, capfd: pytest.CaptureFixture[str], error: OSError, text: str
) -> None:
    def run(args: object) -> int:
        raise error

    command(run)
    assert cli.main(["demo"]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"svc: error: {text}")
    assert said.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback(command: Command) -> None:
    def run(args: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    command(run)
    with pytest.raises(OSError, match="Invalid argument"):
        cli.main(["demo"])


def test_paths_that_are_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300
    for flags in (["-m", name], ["--output", name], ["-n", f"{name}.wav"]):
        assert cli.main(["infer", "-n", "a", *flags]) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert said.startswith("svc: error: ")


@pytest.mark.skipif(os.name == "nt", reason="pipes break in another way")
@pytest.mark.parametrize(
    ("name", "body", "code", "text"),
    [
        ("demo", "    print('a', flush=True)\n    print('b')", 1, b"svc: stopped: nobody reads"),
        ("inspect", "    print('a', flush=True)", 0, b""),
        ("demo", "    print('the work is done')", 0, b""),
    ],
)
def test_a_reader_that_goes_away(name: str, body: str, code: int, text: bytes) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = in_a_process(body, name=name, stdout=writer)
    os.close(writer)
    _, err = done.communicate()
    assert done.returncode == code
    assert err.startswith(text)
    assert err.count(b"\n") == bool(text)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
@pytest.mark.parametrize(("flush", "code"), [(True, 2), (False, 1)])
def test_a_full_disk_behind_stdout(flush: bool, code: int) -> None:
    with open("/dev/full", "w") as full:
        done = in_a_process(f"    print('a', flush={flush})", stdout=full)
        _, err = done.communicate()
    assert done.returncode == code
    assert b"No space left on device" in err
    assert err.count(b"\n") == 1
