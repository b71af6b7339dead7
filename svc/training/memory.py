"""How full the memory of a device is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

_STATUS, _INFO = Path("/proc/self/status"), Path("/proc/meminfo")
_PEAK = Path("/proc/self/clear_refs")
_GROUPS = (  # limit and use of a container, by versions of its interface
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


class Gauge(Protocol):
    """Measures memory."""

    def full(self) -> float | None:
        """Return the largest share of the memory that was in use since the last call; None where
        that is not known.
        """


def gauge_of(device: torch.device) -> Gauge:
    """Return what measures the memory that a device computes in."""
    return CudaGauge(device) if device.type == "cuda" else HostGauge()


class CudaGauge:
    """Memory of a CUDA device, what other programs use included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        torch.cuda.empty_cache()

    def full(self) -> float | None:
        """Return the share in use; what torch has cached counts, and is given back then."""
        free, total = torch.cuda.mem_get_info(self._device)
        torch.cuda.empty_cache()
        return 1.0 - free / total


class HostGauge:
    """Memory of the host: how much of what was available at first this process has taken since."""

    def __init__(self) -> None:
        self._available = available()
        _reset_peak()
        self._before = _kilobytes(_STATUS, "VmRSS")

    def full(self) -> float | None:
        """Return the share; None where the system does not tell."""
        peak = _kilobytes(_STATUS, "VmHWM")
        if not self._available or peak is None or self._before is None:
            return None
        return max(0.0, 1024.0 * (peak - self._before) / self._available)


def available() -> int | None:
    """Return the bytes a process can still take, within its container; None where that is not
    known.
    """
    free = _kilobytes(_INFO, "MemAvailable")
    if free is None:
        return None
    rooms = [1024 * free]
    for limit, used in _GROUPS:
        try:
            rooms.append(int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return max(0, min(rooms))


def _kilobytes(file: Path, key: str) -> int | None:
    """Read a line such as ``VmRSS:  1234 kB``."""
    try:
        for line in file.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return None


def _reset_peak() -> None:
    """Let the largest size of this process begin anew, where the system does that."""
    try:
        _PEAK.write_text("5")
    except OSError:
        return
