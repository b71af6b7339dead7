"""A file of a gigabyte is inspected in the memory and time of a small one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
GIGA = 1 << 30
# Prints the growth of the peak memory, in MB, between an inspection of a small file and of the large one.
CODE = """
import resource, sys
from pathlib import Path
from svc.inspection import inspect
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
assert inspect(Path(sys.argv[1])).good
before = peak()
report = inspect(Path(sys.argv[2]))
assert report.good, report.damage
assert report.sha256 is None
assert report.finding.facts["values"] == int(sys.argv[3]), report.finding
print(peak() - before)
"""


def sparse(path: Path, small: Path, count: int) -> None:
    """Write a file of torch's older container whose one tensor of 5 numbers has been blown up with a hole."""
    content = small.read_bytes()
    old, new = b"K\x05", b"J" + count.to_bytes(4, "little")
    head, data = content[:-28], content[-28:]  # the last: the number of elements, and these
    assert data[:8] == (5).to_bytes(8, "little")
    assert head.count(old) == 2, "of the storage, and the size of the tensor"
    with path.open("wb") as stream:
        stream.write(head.replace(old, new))
        stream.write(count.to_bytes(8, "little"))
        stream.truncate(stream.tell() + 4 * count)


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
def test_a_gigabyte(tmp_path: Path) -> None:
    small, large = tmp_path / "small.pt", tmp_path / "large.pt"
    torch.save({"w": torch.zeros(5)}, small, _use_new_zipfile_serialization=False)
    count = GIGA // 4
    sparse(large, small, count)
    assert large.stat().st_size > GIGA
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(small), str(large), str(count)],
        check=True,
        capture_output=True,
        cwd=ROOT,
        text=True,
    )
    assert int(done.stdout) < 32
