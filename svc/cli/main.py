"""The `svc` command: finds the sub-command, runs it, turns an `SvcError` into one line and its exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from types import ModuleType

from svc import __version__
from svc.cli.options import HelpFormatter
from svc.cli.report import one_line, print_any_name, silence_stdout
from svc.errors import SvcError

COMMANDS: dict[str, str] = {
    "slice": "cut long recordings into clips at silences",
    "resample": "recordings in dataset_raw/ to level-matched clips at the model's rate in dataset/44k/",
    "preprocess": "file lists, configs and features of a dataset",
    "train": "train a voice",
    "train-diff": "train a diffusion model, which refines what a voice sings, or sings alone",
    "train-cluster": "compute k-means centres of each speaker's units",
    "train-index": "build a retrieval index of each speaker's units",
    "train-vocoder": "train or fine-tune the vocoder of diffusion voices",
    "infer": "sing songs with a trained voice",
    "cover": "sing the vocals of a song whose stems you have, and mix them with the rest",
    "mix": "make one new voice out of several weight files",
    "mix-track": "check a mix of speakers along a song, and draw who sings when",
    "compress": "strip a checkpoint to what singing needs",
    "onnx-export": "export a voice to ONNX, each graph compared with its net",
    "inspect": "what a file is, what it fits, whether it is safe to load",
    "encoders": "content encoders: which there are and which files are found; --check tries them",
    "f0": "pitch curves of songs and clips: extract, edit, look at, put into a data set",
    "voice-range": "measure which notes a voice sings, for  svc infer -t auto  with a model of another program",
    "compare": "measure a conversion: F0, voicing, loudness, distance to both voices; draws a picture",
    "demo": "write a small synthetic data set and song",
}
_ONLY_TELL = {"inspect", "encoders"}
"""Commands whose work is what they print: where nobody reads on, nothing is left undone."""
_SECONDS_TO_TELL = 20.0  # a launcher ends this process as soon as that one has ended


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser; only the chosen sub-command's arguments are loaded, so help stays instant."""
    parser = argparse.ArgumentParser(
        prog="svc",
        description="Singing voice conversion: a recorded song goes in, the same song sung by another voice comes out.",
        epilog="Use only voices you have the right to use.  svc COMMAND --help  shows the flags of a command.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"svc {__version__}")
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say more: chosen device, files read, skipped work",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, text in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        if name == command:
            module_of(name).add_arguments(sub)
    return parser


def module_of(command: str) -> ModuleType:
    """Import the module of a sub-command."""
    return importlib.import_module(f"svc.cli.{command.replace('-', '_')}")


def _log_to_stderr(level: int) -> None:
    """Show this package's log records; the handler is replaced, not added, when `main` runs twice in a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("svc: %(levelname)s: %(message)s"))
    handler.set_name("svc-cli")
    log = logging.getLogger("svc")
    for old in [item for item in log.handlers if item.get_name() == "svc-cli"]:
        log.removeHandler(old)
    log.addHandler(handler)
    log.setLevel(level)


def _run(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run the chosen sub-command, in several processes where that is asked for."""
    from svc.training.launching import have_met, is_follower, launch

    if getattr(args, "gpus", None) is not None:
        code = launch(args.gpus, args.device, arguments)
        if code is not None:
            return code
    run = module_of(args.command).run
    if not is_follower(os.environ) or args.command == "infer":  # there each tells of its own songs
        return int(run(args))
    # Of the processes of a run one speaks, and says how it ended: one that ends with something else than 0
    # before it would take it along.
    _log_to_stderr(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            run(args)
    except SvcError as error:
        # All processes have met the same command line.
        raise error if have_met() else SvcError("") from error
    return 0


def _flushed(code: int) -> int:
    """Print what is buffered, now that the work is done.

    Returns:
        What the command ends with: `code`, or 1 instead of 0 where its words are lost.
    """
    if sys.stdout is None:  # a process without a console
        return code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
    except OSError as error:
        silence_stdout()
        print(f"svc: error: cannot print: {error.strerror}", file=sys.stderr)
        return code or 1
    return code


def _cannot_use(error: OSError) -> str:
    """Say which file the system refuses and why: a folder one may not enter, a name too long."""
    name = error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    why = error.strerror or str(error)
    return one_line(why if name is None else f"{name}: {why}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program name; None = those of the process.

    Returns:
        0 all fine; 1 some files of a batch failed, or not all was done because nobody read the output
        any more; 2 bad input, nothing done; 3 an export that differs from the net; 130 interrupted.
    """
    print_any_name()
    # Threads of the CPU maths library wait by spinning unless told otherwise, before torch is imported. On a machine
    # that does anything else at the same time a spinning thread keeps the core from the one it waits for: a training
    # step of the small network took 0.8 s instead of many seconds beside three busy processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if word in COMMANDS), None)
    parser = build_parser(command)
    args = parser.parse_args(arguments)
    args.words = arguments  # as they were typed, for what is written down of a run
    if args.command is None:
        parser.print_help()
        return 2
    _log_to_stderr(logging.INFO if args.verbose else logging.WARNING)
    try:
        return _flushed(_run(args, arguments))
    except SvcError as error:
        if str(error):
            print(f"svc: error: {one_line(str(error))}", file=sys.stderr)
        else:
            # Another process of the run says it, unless the first one to end takes it along before it can.
            time.sleep(_SECONDS_TO_TELL)
        return _flushed(error.exit_code)
    except KeyboardInterrupt:
        print("svc: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) went away: nothing can be printed any more.
        silence_stdout()
        if args.command in _ONLY_TELL:
            return 0
        print("svc: stopped: nobody reads the output any more", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise  # a fault of ours
        print(f"svc: error: {_cannot_use(error)}", file=sys.stderr)
        logging.getLogger("svc").info("it came from here", exc_info=True)
        if error.filename is None:
            silence_stdout()  # it may be what is full
        return 2


if __name__ == "__main__":
    sys.exit(main())
