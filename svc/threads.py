"""How many threads work beside each other may use."""

from __future__ import annotations

import os
import sys


def cpu_count() -> int:
    """Return how many CPUs this process may use; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def cpu_threads() -> int:
    """Return torch's number of threads where torch is loaded, else OMP_NUM_THREADS, else the cores
    that this process may use; at least 1.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        return max(1, int(torch.get_num_threads()))
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if told.isdecimal() and int(told) > 0:
        return int(told)
    return cpu_count()
