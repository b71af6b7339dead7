"""Training clips per second from feature files and from a pack, as a Markdown table for docs/training.md.

    python scripts/bench/data.py --out docs/training.md
    python scripts/bench/data.py --clips 200 --quick

The data set is made up: clips of 2 to 4 s, units of the given width, all of it really on the disk. Each way is measured
in the same run: cold, after the system was asked to forget the files (it may keep some, and a disk has memory of its
own), by the clock; and warm, by the time of this process, so that other programs count less. "Reading" is all but the
spectrogram, which is computed from the samples either way. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from doc_section import write_section

from svc.audio.io import write_audio
from svc.audio.loudness import frame_volume
from svc.config import SvcConfig, find_template, load_config
from svc.dataset.features import FeatureCache, FeaturePaths
from svc.dataset.filelist import write_filelist
from svc.dataset.pack import NAME
from svc.dataset.packing import pack_dataset
from svc.training.checks import CheckedList, read_lists
from svc.training.clips import ClipDataset

DIFFERENT = 16  # clips that are computed; the others are copies of them
WAYS = ("files", "pack")


@dataclass(frozen=True)
class Speed:
    """What was measured of one way."""

    check: float  # seconds of the process before the first step
    cold: float  # clips per second
    warm: float
    reading: float  # warm, without the spectrogram
    size: int  # bytes on the disk


def write_data(root: Path, config: SvcConfig, count: int) -> list[Path]:
    """Write clips with their features; returns their paths."""
    data, rng = config.data, np.random.default_rng(0)
    cache, paths = FeatureCache.from_config(config), []
    for number in range(count):
        path = root / "voice" / f"{number:05d}.wav"
        if number < DIFFERENT:
            frames = int(rng.uniform(2, 4) * data.sampling_rate / data.hop_length)
            wav = (0.2 * rng.standard_normal(frames * data.hop_length)).astype(np.float32)
            write_audio(path, wav.clip(-1, 1), data.sampling_rate)
            units = int(50 * len(wav) / data.sampling_rate)
            cache.save(
                path,
                units=torch.from_numpy(
                    rng.standard_normal((config.model.ssl_dim, units)).astype(np.float32)
                ),
                f0=torch.from_numpy(np.stack([rng.uniform(80, 400, frames), np.ones(frames)])),
                volume=frame_volume(torch.from_numpy(wav)[None], data.hop_length)[0],
            )
        else:
            for source, target in zip(files(paths[number % DIFFERENT]), files(path), strict=True):
                shutil.copy2(source, target)
        paths.append(path)
    return paths


def files(path: Path) -> list[Path]:
    """The files of a clip."""
    paths = FeaturePaths.of(path)
    return [path, paths.units, paths.f0, paths.volume, paths.meta]


def forget(paths: Sequence[Path]) -> None:
    """Ask the system to drop files from its page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not on the disk yet is not dropped
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def an_epoch(
    config: SvcConfig, checked: CheckedList, epoch: int, clock: Callable[[], float], *, specs: bool
) -> float:
    """Clips per second of one process that takes every clip once, in no order."""
    dataset = ClipDataset(config, checked.paths, augment=True, store=checked.store)
    if not specs:
        nothing = torch.zeros(config.data.spec_channels, 0)
        dataset._spec = lambda *_: nothing  # type: ignore[method-assign]
    order = np.random.default_rng(epoch).permutation(len(dataset))
    began = clock()
    for index in order:
        dataset.clip(int(index), epoch)
    return len(order) / (clock() - began)


def measure(config: SvcConfig, paths: Sequence[Path], root: Path, way: str) -> Speed:
    """Measure one way."""
    used = [root / NAME] if way == "pack" else [file for path in paths for file in files(path)]
    read_lists(config)
    began = time.process_time()
    checked, _ = read_lists(config)
    check = time.process_time() - began
    if checked.packed != (way == "pack"):
        raise SystemExit(f"clips should come from the {way}")
    forget(used)
    cold = an_epoch(config, checked, 1, time.perf_counter, specs=True)
    warm, reading = (
        max(an_epoch(config, checked, epoch, time.process_time, specs=specs) for epoch in (2, 3))
        for specs in (True, False)
    )
    return Speed(check, cold, warm, reading, sum(file.stat().st_size for file in used))


def table(speeds: dict[str, Speed], count: int, packing: float) -> str:
    """The result in Markdown."""
    one, two = (speeds[way] for way in WAYS)
    rows = [
        "| | from files | from the pack | ratio |",
        "| --- | ---: | ---: | ---: |",
        f"| clips per second, cold | {one.cold:.0f} | {two.cold:.0f} | {two.cold / one.cold:.1f} |",
        f"| clips per second, warm | {one.warm:.0f} | {two.warm:.0f} | {two.warm / one.warm:.1f} |",
        f"| reading, clips per second, warm | {one.reading:.0f} | {two.reading:.0f} | "
        f"{two.reading / one.reading:.1f} |",
        f"| check before step 1, s | {one.check:.2f} | {two.check:.2f} | {one.check / two.check:.1f} |",
        f"| files | {5 * count} | 1 | |",
        f"| MB on the disk | {one.size / 1e6:.0f} | {two.size / 1e6:.0f} | |",
    ]
    head = (
        f"{count} clips of 2 to 4 s with units, F0 and volume, one process, one thread, "
        f"{platform.machine()}; a clip is cropped, its units stretched, its spectrogram computed. Writing the "
        f"pack took {packing:.1f} s ({count / packing:.0f} clips/s)."
    )
    return "\n".join([head, "", *rows])


def bench(count: int, width: int) -> str:
    """Write the data set into the working folder, measure both ways; returns the table."""
    template = json.loads(Path(find_template("template.json")).read_text(encoding="utf-8"))
    template["data"] |= {"training_files": "train.txt", "validation_files": "val.txt"}
    template["model"] |= {
        "ssl_dim": width,
        "speech_encoder": f"vec{width}l{9 if width == 256 else 12}",
    }
    template["spk"] = {"voice": 0}
    Path("config.json").write_text(json.dumps(template), encoding="utf-8")
    config, root = load_config("config.json"), Path("data")
    paths = write_data(root, config, count)
    write_filelist(Path("train.txt"), paths)
    write_filelist(Path("val.txt"), [])
    speeds = {"files": measure(config, paths, root, "files")}
    began = time.process_time()
    pack_dataset(root, paths, FeatureCache.from_config(config).settings)
    packing = time.process_time() - began
    speeds["pack"] = measure(config, paths, root, "pack")
    return table(speeds, count, packing)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=2000, metavar="N")
    parser.add_argument("--width", type=int, default=768, choices=(256, 768), help="of the units")
    parser.add_argument("--folder", type=Path, help="where to write the data (default: temporary)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write into")
    parser.add_argument("--quick", action="store_true", help="40 clips, narrow units: only to try")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    count, width = (40, 256) if args.quick else (args.clips, args.width)
    here = Path.cwd()
    out = None if args.out is None else args.out.resolve()
    with tempfile.TemporaryDirectory(prefix="svc-bench-", dir=args.folder) as folder:
        os.chdir(folder)
        try:
            text = bench(count, width)
        finally:
            os.chdir(here)
    print(text)
    if out is not None:
        write_section(out, "data on disk", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
