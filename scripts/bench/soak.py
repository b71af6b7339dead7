"""Long songs and many songs: does `svc infer` stay within its memory?

    python scripts/bench/soak.py [--minutes 60] [--conversions 50] [--full] [--song FILE] [--flags "..."]

Makes a song of so many minutes out of the demo singer, or of the file given: it comes again and again,
each time a little higher or lower and louder or softer, so that no part is a copy of another. `svc infer`
sings it in a process of its own with a voice of made-up weights on the bundled encoder: tiny nets, or
with --full those of the default config. Printed are the most memory above what the process had after
loading the model, and whether the result is as long as it has to be, finite and not silent.

With --conversions many short songs of different lengths are sung in one process, and the memory after
each is looked at: by how much the highest of the last third is above that of the third before, per song.

Linux only: /proc tells the memory. Exits with 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

FloatArray = npt.NDArray[np.float32]
SPEAKER = "voice"
LIMIT_MB = 1500.0  # above the model, for 60 minutes
LIMIT_SLOPE_MB = 1.0  # per conversion; a leaked song of 6 s is 1.1 MB, a leaked net much more
SHIFTS = (0, 2, -2, 1, -1, 3, -3)  # semitones of the repetitions
GAINS_DB = (0.0, -2.0, 1.0, -4.0, -1.0)
SHORT_SECONDS = 6.0


def main() -> int:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the song")
    parser.add_argument("--conversions", type=int, default=0, help="short songs instead, so many")
    parser.add_argument("--full", action="store_true", help="nets as large as the default config's")
    parser.add_argument("--song", type=Path, help="recording that is repeated")
    parser.add_argument("--flags", default="", help="more flags of svc infer")
    parser.add_argument(
        "--folder", type=Path, help="where to work (the song alone is 5 MB a minute)"
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    if args.child is not None:
        return sing(args.child, rest)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        work = Path(folder)
        model = write_voice(work, full=args.full)
        phrase, sr = base_song(args.song)
        if args.conversions:
            lengths = [SHORT_SECONDS * (0.5 + (k % 5) / 4) for k in range(args.conversions)]
        else:
            lengths = [60.0 * args.minutes]
        names = []
        for number, seconds in enumerate(lengths):
            names.append(work / f"song{number:03}.wav")
            write_song(names[-1], phrase, sr, seconds, first=number)
        seen = run(work, model, names, shlex.split(args.flags))
        return tell_many(seen) if args.conversions else tell_long(seen, work, names[0], lengths[0])


# ---- what is sung --------------------------------------------------------------------------------


def base_song(path: Path | None) -> tuple[FloatArray, int]:
    """Return what is repeated: a recording, or about half a minute of the demo singer; and its rate."""
    if path is not None:
        from svc.audio.io import read_audio

        return read_audio(path)
    from svc.demo.dataset import sing_song
    from svc.demo.singer import SAMPLING_RATE

    return sing_song(seed=7, seconds=30.0).wav, SAMPLING_RATE


def write_song(path: Path, phrase: FloatArray, sr: int, seconds: float, *, first: int = 0) -> None:
    """Write a 16-bit wav of so many seconds without having it in memory.

    Args:
        path: the file.
        phrase: (T,) what is repeated.
        sr: its rate and that of the file, Hz.
        seconds: length of the file.
        first: number of the first repetition: another one gives another song.
    """
    from svc.audio.resample import resample
    from svc.audio.writer import AudioWriter

    left, number = round(seconds * sr), first
    pause = np.zeros(round(0.7 * sr), np.float32)
    with AudioWriter(path, sr) as writer:
        while left > 0:
            semitones = SHIFTS[number % len(SHIFTS)] + 0.01 * (number // len(SHIFTS))
            gain = np.float32(0.7 * 10 ** (GAINS_DB[number % len(GAINS_DB)] / 20))
            # Played faster it is higher: a rate that is not the one it is written with.
            played = gain * resample(phrase, round(sr * 2 ** (semitones / 12)), sr)
            part = np.concatenate([played, pause])[:left]
            writer.write(part)
            left, number = left - part.size, number + 1


def write_voice(folder: Path, *, full: bool) -> Path:
    """Write checkpoint and config of a voice with made-up weights on the bundled encoder."""
    import torch

    from svc.checkpoint import save_checkpoint
    from svc.config import load_config, save_config
    from svc.synthesizer import Synthesizer

    config = load_config(ROOT / "configs" / "template.json")
    model = dataclasses.replace(
        config.model, speech_encoder="whisper-ppg-tiny", ssl_dim=384, n_speakers=1
    )
    if not full:
        model = dataclasses.replace(
            model, inter_channels=16, hidden_channels=16, filter_channels=32, n_layers=2,
            upsample_initial_channel=32, gin_channels=8, resblock="2", resblock_kernel_sizes=(3,),
            resblock_dilation_sizes=((1, 3),),
        )  # fmt: skip
    config = dataclasses.replace(config, model=model, spk={SPEAKER: 0})
    torch.manual_seed(1)
    net = Synthesizer.from_config(config)
    with torch.no_grad():  # an untrained net whispers
        net.dec.conv_post.weight_g.mul_(30.0)
    path = folder / "G_0.pth"
    state = {"model": net.state_dict(), "iteration": 1, "optimizer": None, "learning_rate": 1e-4}
    save_checkpoint(state, path)
    save_config(config, folder / "config.json")
    return path


# ---- the process that sings ----------------------------------------------------------------------


def run(work: Path, model: Path, names: list[Path], flags: list[str]) -> dict[str, Any]:
    """Sing songs by `svc infer` in a process of its own; returns what it saw of its memory."""
    notes = work / "memory.json"
    words = ["-m", str(model), "-n", *map(str, names), "--output_dir", str(work / "results")]
    if not {"-wf", "--wav_format"} & set(flags):
        words += ["-wf", "wav"]
    words += ["-d", "cpu", "--no_cache", *flags]
    command = [sys.executable, str(HERE), "--child", str(notes), "infer", *words]
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=work, stdout=subprocess.DEVNULL)
    seen: dict[str, Any] = json.loads(notes.read_text())
    seen["seconds"] = time.perf_counter() - started
    return seen


def sing(notes: Path, words: list[str]) -> int:
    """Run `svc` with these words; look at the memory after loading, after each song and at the end."""
    from svc.cli.infer_report import InferReport
    from svc.cli.main import main as svc
    from svc.conversion.converter import Converter

    give_back = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)
    seen: dict[str, Any] = {"after_song": []}
    load, show = Converter.from_files, InferReport.show

    def from_files(*args: Any, **more: Any) -> Converter:
        converter = load(*args, **more)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        seen["loaded"] = memory_mb("VmRSS")
        return converter

    def noted(report: InferReport, outcome: Any) -> None:
        show(report, outcome)
        give_back(0)  # what is free counts as free: else the figure is that of the allocator's mood
        seen["after_song"].append(memory_mb("VmRSS"))

    Converter.from_files = from_files  # type: ignore[method-assign, assignment]
    InferReport.show = noted  # type: ignore[method-assign]
    code = svc(words)
    seen["peak"] = memory_mb("VmHWM")
    notes.write_text(json.dumps(seen))
    return code


def memory_mb(what: str) -> float:
    """Return a line of /proc/self/status in MB of 10^6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"soak: /proc/self/status does not tell {what}")


# ---- what came of it -----------------------------------------------------------------------------


def tell_long(seen: dict[str, Any], work: Path, song: Path, seconds: float) -> int:
    """Print the figures of one long song; returns the exit code."""
    from svc.audio.io import open_audio
    from svc.audio.resample import resampled_length

    (result,) = (path for path in (work / "results").iterdir() if path.suffix != ".json")
    n_samples, finite, loudest = 0, True, 0.0
    with open_audio(result) as made:
        sr = made.sr
        for block in made.blocks():
            n_samples += block.shape[-1]
            finite &= bool(np.isfinite(block).all())
            loudest = max(loudest, float(np.abs(block).max(initial=0.0)))
    with open_audio(song) as given:
        wanted = resampled_length(sum(block.shape[-1] for block in given.blocks()), given.sr, sr)
    above = seen["peak"] - seen["loaded"]
    print(f"song                  {seconds / 60:.1f} minutes, in {seen['seconds']:.0f} s")
    print(f"after loading         {seen['loaded']:.0f} MB")
    print(f"most above that       {above:.0f} MB (limit {LIMIT_MB:.0f})")
    print(f"samples of the result {n_samples}, wanted {wanted}")
    print(f"finite                {finite}, loudest {loudest:.3f}")
    good = above < LIMIT_MB and n_samples == wanted and finite and loudest > 1e-3
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


def tell_many(seen: dict[str, Any]) -> int:
    """Print the figures of many songs; returns the exit code."""
    after = np.array(seen["after_song"])
    # Songs of other lengths leave other kernels behind, up and down by 100 MB: the highest counts.
    third = max(1, after.size // 3)
    slope = float(after[-third:].max() - after[-2 * third : -third].max(initial=0.0)) / third
    print(f"conversions      {after.size}, in {seen['seconds']:.0f} s")
    print(f"after loading    {seen['loaded']:.0f} MB")
    places = sorted({0, after.size // 4, after.size // 2, 3 * after.size // 4, after.size - 1})
    print("after song       " + ", ".join(f"{k + 1}: {after[k]:.0f} MB" for k in places))
    print(
        f"growth per song  {slope:+.2f} MB from the second third to the last (limit {LIMIT_SLOPE_MB:g})"
    )
    good = slope < LIMIT_SLOPE_MB
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
