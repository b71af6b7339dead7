"""Compare our content encoders with fairseq, torchaudio, openai-whisper and transformers.

    bash scripts/oracle.sh [NET ...] [--out docs/parity.md] [--list]

For each net: build and run it in the oracle's environment (build.py), read and run its file with svc
(compare.py), delete it. Prints the table; exits with 1 when a figure is above its limit or a net
failed, with 2 when it cannot start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from cases import CASES, CLIPS, REAL_CLIPS  # noqa: E402
from doc_section import write_section  # noqa: E402
from table import is_good, section  # noqa: E402

from svc.atomic import write_text  # noqa: E402
from svc.audio.io import read_audio  # noqa: E402
from svc.audio.resample import resample  # noqa: E402
from svc.errors import SvcError  # noqa: E402

_RATE = 16000  # Hz
_VERSIONS = """
import importlib.metadata as m, platform, sys
print("Python " + platform.python_version(), *(f"{n} {m.version(n)}" for n in sys.argv[1:]), sep=", ")
"""
_THEIR_PACKAGES = ("torch", "torchaudio", "fairseq-fixed", "openai-whisper", "transformers")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="oracle.sh", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("nets", nargs="*", metavar="NET", help="nets to compare; default all")
    parser.add_argument("--list", action="store_true", help="list the nets and end")
    parser.add_argument("--out", type=Path, help='replace the section "content encoders" there')
    parser.add_argument(
        "--results",
        type=Path,
        help="JSON file that keeps the figures: nets that are in it are not measured again",
    )
    parser.add_argument("--oracle", type=Path, help="Python of the oracle's environment")
    parser.add_argument("--work", type=Path, help="folder for the files of one net (up to 4 GB)")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.nets if name not in CASES]
    if unknown:
        parser.error(f'there is no net "{unknown[0]}"; the nets are {", ".join(CASES)}')
    if args.nets and args.out:
        parser.error("--out writes the table of all nets: give no NET with it")
    return args


def free_gigabytes() -> float:
    """Memory that a new process can take; without limit where the system does not say."""
    info = Path("/proc/meminfo")
    found = info.exists() and re.search(r"MemAvailable:\s*(\d+) kB", info.read_text())
    return int(found[1]) / 2**20 if found else float("inf")


def write_clips(shared: Path, table: dict[str, tuple[str, float]], path: Path) -> None:
    """Cut the recordings at 16 kHz. Raises SvcError where one is missing."""
    clips = {}
    for name, (file, seconds) in table.items():
        wav, rate = read_audio(shared / "audio" / file)
        clips[name] = resample(wav, rate, _RATE)[: round(seconds * _RATE)]
    np.savez(path, **clips)


def measure(name: str, oracle: Path, folder: Path, clips: Path, shared: Path) -> dict[str, Any]:
    """Build and compare one net. Raises CalledProcessError."""
    result = folder / f"{name}.json"
    with tempfile.TemporaryDirectory(dir=folder) as files:
        for step in (
            # Quiet: fairseq still uses a weight norm that torch advises against.
            [oracle, "-W", "ignore", HERE / "build.py", name, files, clips, shared],
            [sys.executable, HERE / "compare.py", name, files, clips, result],
        ):
            subprocess.run(list(map(str, step)), check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return figures


def measure_all(args: argparse.Namespace, shared: Path) -> dict[str, Any]:
    """Figures of each wanted net, or a word on why there are none.

    Raises SvcError, OSError or JSONDecodeError: a recording or the file of results cannot be used.
    """
    kept: dict[str, Any] = {}
    if args.results and args.results.exists():
        kept = json.loads(args.results.read_text(encoding="utf-8"))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="svc-oracle-", dir=args.work) as temporary:
        folder = Path(temporary)
        clips, real = folder / "clips.npz", folder / "real.npz"
        write_clips(shared, CLIPS, clips)
        write_clips(shared, REAL_CLIPS, real)
        for name in args.nets or CASES:
            if name in kept:
                results[name] = kept[name]
                continue
            if free_gigabytes() < CASES[name].gigabytes:
                results[name] = f"not run: needs {CASES[name].gigabytes:.0f} GB of free memory"
                _say(f"{name}: {results[name]}")
                continue
            try:
                waves = real if name == "whisper-real" else clips
                results[name] = kept[name] = measure(name, args.oracle, folder, waves, shared)
            except subprocess.CalledProcessError as error:
                results[name] = "failed"
                step = next(Path(part).name for part in error.cmd if part.endswith(".py"))
                _say(f"{name}: {step} failed\n{error.stderr.strip()}")
                continue
            if args.results:
                write_text(args.results, json.dumps(kept, indent=1))
            word = "good" if is_good(results[name]) else "above a limit"
            _say(f"{name}: {word} {json.dumps(results[name])}")
    return results


def _versions(oracle: Path) -> dict[str, str]:
    def ask(python: str | Path, *packages: str) -> str:
        command = [str(python), "-c", _VERSIONS, *packages]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return {
        "machine": f"{platform.machine()} CPU, OMP_NUM_THREADS {threads}",
        "ours": ask(sys.executable, "torch"),
        "theirs": ask(oracle, *_THEIR_PACKAGES),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.list:
        for name, case in CASES.items():
            print(f"{name:20} {case.title}; against {case.source}; {case.gigabytes:.0f} GB")
        return 0
    shared = Path(os.environ.get("SVC_SHARED", HERE.parents[2] / "shared"))
    if not (shared / "audio").is_dir():
        _say(f"error: {shared}: no folder with recordings (audio/); set SVC_SHARED")
        return 2
    if args.oracle is None or not args.oracle.exists():
        _say("error: no Python of an oracle's environment; start this with bash scripts/oracle.sh")
        return 2
    try:
        results = measure_all(args, shared)
    except (SvcError, OSError, json.JSONDecodeError) as error:
        _say(f"error: {error}")
        return 2
    missing = "failed" in results.values()
    failed = missing or not all(is_good(r) for r in results.values() if isinstance(r, dict))
    text = section(results, _versions(args.oracle))
    print(text)
    if args.out and not missing:
        try:
            write_section(args.out, "content encoders", text)
        except (ValueError, SvcError) as error:
            _say(f"error: {error}")
            return 2
    elif args.out:
        _say(f"{args.out} is left as it was, because a net failed")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
