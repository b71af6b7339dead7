"""Searching a retrieval index, ours against the way of so-vits-svc 4.1, as a Markdown table for docs/timbre.md.

    python scripts/bench/index.py --out docs/timbre.md
    python scripts/bench/index.py --units VOICE --query SONG --out docs/timbre.md
    python scripts/bench/index.py --quick

Rows and queries are made up unless folders of units (*.soft.pt) are given; how they are made is said in `made_up`.
The other way is measured in the same run, in turns with ours: units are first stretched to the 86 frames per second of
a voice at 44.1 kHz, all vectors are copied out of the index once, and the found ones are looked up in the copy. Memory
is that of a process of its own. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import faiss
import numpy as np
import numpy.typing as npt
from doc_section import write_section

from svc.retrieval.index import NEIGHBOURS, FeatureIndex, blend
from svc.retrieval.index_build import build_index, shuffled_places
from svc.retrieval.index_files import StoredIndex, map_file, write_index

Rows = npt.NDArray[np.float32]

UNIT_RATE = 50.0  # units per second
FRAME_RATE = 44100 / 512  # frames per second of a voice
CHUNK = 10.0  # seconds of audio searched at a time


def made_up(rows: int, dim: int, seed: int) -> Rows:
    """Units that move like those of a voice: (rows, dim) float32.

    A chain of 120 sounds of a tenth of a second, each a random direction, low-passed so that one glides into the next,
    with slow wandering in 24 dimensions (who, how high, how loud) and a little noise of their own. Rows and queries
    share the sounds and differ in everything else.
    """
    sounds = np.random.default_rng(0).standard_normal((120, dim)).astype(np.float32)
    around = np.random.default_rng(1).standard_normal((24, dim)).astype(np.float32) / 5
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 10, size=rows)
    which = np.repeat(rng.integers(0, 120, size=rows), lengths)[: rows + 4]
    target = sounds[which]
    units = (target[:-4] + 2 * target[1:-3] + 3 * target[2:-2] + 2 * target[3:-1] + target[4:]) / 9
    steps = rng.standard_normal((rows, 24)).astype(np.float32)
    for row in range(1, rows):
        steps[row] = 0.95 * steps[row - 1] + 0.31 * steps[row]
    units += steps @ around
    units += 0.15 * rng.standard_normal(units.shape, dtype=np.float32)
    return units.astype(np.float32)


def from_folder(folder: Path) -> Rows:
    """All units of a folder and those under it, (rows, dim)."""
    from svc.dataset.tensor_files import (
        load_tensor,
    )  # torch: not in the processes that measure memory

    files = sorted(folder.rglob("*.soft.pt"))
    if not files:
        raise SystemExit(f"error: {folder} holds no units (*.soft.pt)")
    return np.concatenate([load_tensor(file)[0].T.numpy() for file in files])


def resident() -> int:
    """Bytes of memory this process has of its own; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


class Plain:
    """The way of the original (spec_cluster_index 5)."""

    def __init__(self, stored: StoredIndex) -> None:
        self.index = stored.read()
        self.vectors = self.index.reconstruct_n(0, self.index.ntotal)

    def match(self, units: Rows) -> Rows:
        n_frames = round(len(units) * FRAME_RATE / UNIT_RATE)
        frames = units[np.arange(n_frames) * len(units) // n_frames]
        distances, ids = self.index.search(frames, NEIGHBOURS)
        weights = np.square(1 / distances)
        weights /= weights.sum(axis=1, keepdims=True)
        found: Rows = np.sum(self.vectors[ids] * weights[:, :, None], axis=1)
        return found


def stored_at(path: Path) -> StoredIndex:
    return StoredIndex.of(str(path), map_file(path))


def memory_of(kind: str, path: Path) -> int:
    """Bytes that searching takes, the libraries and what any search takes apart."""
    few = np.zeros((500, 8), np.float32)
    small = FeatureIndex(
        {0: StoredIndex.of("", memoryview(bytes(faiss.serialize_index(build_index(few, seed=1)))))},
        where="",
    )
    small.match_numpy(few, "bench", 0)
    before = resident()
    stored = stored_at(path)
    units = np.zeros((500, stored.facts.dim), np.float32)
    if kind == "plain":
        plain = Plain(stored)
        plain.match(units)
    else:
        index = FeatureIndex({0: stored}, where="")
        del stored  # else it would hold on to the mapped file
        index.match_numpy(units, "bench", 0)
    return resident() - before


def in_own_process(kind: str, path: Path) -> int:
    command = [sys.executable, __file__, "--memory", kind, str(path)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def fastest(works: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Least seconds of each, taken in turns."""
    best = [float("inf")] * len(works)
    for _ in range(runs):
        for number, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[number] = min(best[number], time.perf_counter() - start)
    return best


def measure(data: Rows, queries: Rows, nprobes: Sequence[int], runs: int) -> list[str]:
    """One row of the table per way."""
    shuffled = np.empty_like(data)
    shuffled[shuffled_places(len(data), 1)] = data
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Index-0.index"
        write_index(build_index(shuffled, seed=1), path)
        index = FeatureIndex({0: stored_at(path)}, where=str(path))
        memory = {kind: in_own_process(kind, path) for kind in ("plain", "ours")}
        index.match_numpy(queries[:500], "bench", 0)
        plain = Plain(stored_at(path))
    plain.match(queries[:500])

    step = round(CHUNK * UNIT_RATE)
    pieces = [queries[start : start + step] for start in range(0, len(queries), step)]

    def ours(nprobe: int) -> Callable[[], object]:
        def work() -> None:
            index.nprobe = nprobe
            for piece in pieces:
                index.match_numpy(piece, "bench", 0)

        return work

    works: list[Callable[[], object]] = [lambda: [plain.match(piece) for piece in pieces]]
    works += [ours(nprobe) for nprobe in nprobes]
    seconds = len(queries) / UNIT_RATE
    times = [1000 * value / seconds for value in fastest(works, runs)]
    judged = judge(index, queries, {1, *nprobes})
    lines = [row(data, "plain, nprobe 1", times[0], times[0], judged[1], memory["plain"])]
    for nprobe, taken in zip(nprobes, times[1:]):
        way = f"ours, nprobe {nprobe}"
        lines.append(row(data, way, taken, times[0], judged[nprobe], memory["ours"]))
    return lines


def judge(
    index: FeatureIndex, queries: Rows, nprobes: Iterable[int]
) -> dict[int, tuple[float, float]]:
    """By lists searched: the part of the true nearest neighbours that is found, and how long the steps of the blends
    from frame to frame are, as a part of those of an exact search.
    """

    def look(nprobe: int) -> tuple[npt.NDArray[np.int64], float]:
        found = index.search(queries, 0, nprobe=nprobe)
        steps = np.diff(blend(found, queries), axis=0)
        return found.ids, float(np.linalg.norm(steps, axis=1).mean())

    exact, exact_step = look(index.facts[0].n_lists)
    judged = {}
    for nprobe in nprobes:
        ids, step = look(nprobe)
        hits = [np.isin(true, ours).mean() for true, ours in zip(exact, ids)]
        judged[nprobe] = float(np.mean(hits)), step / exact_step
    return judged


def row(
    data: Rows, way: str, taken: float, plain: float, judged: tuple[float, float], n_bytes: int
) -> str:
    cells = [f"{len(data)} × {data.shape[1]}", way, f"{taken:.2f}", f"{plain / taken:.1f}"]
    cells += [f"{100 * part:.0f} %" for part in judged]
    cells.append(f"{n_bytes / 1e6:.0f}" if n_bytes > 0 else "-")
    return f"| {' | '.join(cells)} |"


def machine(threads: int) -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}, faiss {faiss.__version__}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, help="default: 10000 100000")
    parser.add_argument("--dim", type=int, default=768, help="width of made-up units")
    parser.add_argument("--seconds", type=float, help="audio that is searched for (default: 60)")
    parser.add_argument("--nprobe", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--units", type=Path, help="a folder of units to take the rows from")
    parser.add_argument("--query", type=Path, help="a folder of units to search for")
    parser.add_argument("--quick", action="store_true", help="few rows, one run")
    parser.add_argument("--out", type=Path, help="write the section of this document")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)  # what in_own_process asks
    args = parser.parse_args(arguments)
    if args.memory:
        print(memory_of(args.memory[0], Path(args.memory[1])))
        return 0
    if (args.units is None) != (args.query is None):
        parser.error("--units and --query go together")
    args.rows = args.rows or ([2000] if args.quick else [10_000, 100_000])
    args.seconds = args.seconds or (5.0 if args.quick else 60.0)
    faiss.omp_set_num_threads(args.threads)
    lines = [
        "| rows | way | ms per second of audio | plain / this | of the nearest 8 found | steps | MB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    runs = 1 if args.quick else 5
    n_queries = round(args.seconds * UNIT_RATE)
    if args.units is not None:
        sets = [(from_folder(args.units), from_folder(args.query)[:n_queries])]
    else:
        query = made_up(n_queries, args.dim, 99)
        sets = [(made_up(rows, args.dim, 5), query) for rows in args.rows]
    for data, queries in sets:
        print(f"{len(data)} rows", file=sys.stderr, flush=True)
        lines += measure(data, queries, args.nprobe, runs)
    text = "\n".join([f"{machine(args.threads)}.", "", *lines])
    section = "index speed" if args.units is None else "index of real units"
    print(f"\n{section}\n\n{text}", flush=True)
    if args.out:
        write_section(args.out, section, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
