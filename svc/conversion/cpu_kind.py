"""What kind of processor computes: other instructions and other caches sum in another order."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_MODEL = frozenset({
    "vendor_id", "cpu family", "model", "model name",  # x86
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part",  # ARM
    "cpu", "isa", "uarch",  # POWER, RISC-V
})  # fmt: skip
_FEATURES = frozenset({"flags", "Features"})  # on x86 and on ARM
# The kernel lists much more, also what only it uses, and that changes with its version.
_X86_ARITHMETIC = ("sse", "ssse", "avx", "fma", "f16c", "amx")


def cpu_kind() -> list[str]:
    """Name the processor and what decides how its sums are rounded, for keys of caches.

    Returns:
        Texts that are the same on every machine of one kind. Where torch is loaded they say which
        of its kernels are used, too, which the environment can limit.
    """
    torch = sys.modules.get("torch")  # graphs compute without it
    kernels = [] if torch is None else [f"torch {torch.backends.cpu.get_cpu_capability()}"]
    return [*_processor(), *kernels]


@functools.cache
def _processor() -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    if platform.system() == "Linux":
        try:
            found = read_cpu_info(_CPU_INFO.read_text(encoding="utf-8", errors="replace"))
        except OSError:  # a system that shows nothing of its hardware
            found = ()
    elif platform.system() == "Darwin":
        found = _mac_processor()
    return found or (platform.processor(),)


def read_cpu_info(text: str) -> tuple[str, ...]:
    """Read what matters for sums out of Linux' list of processors.

    Args:
        text: of the list; each core has its lines ``name : value``.

    Returns:
        Lines ``name: value``, each once, sorted; of several kinds of cores all.
    """
    lines = set()
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name in _FEATURES:
            words = sorted(set(value.split()))
            if name == "flags":
                words = [word for word in words if word.startswith(_X86_ARITHMETIC)]
            value = " ".join(words)
        elif name not in _MODEL:
            continue
        lines.add(f"{name}: {value}")
    return tuple(sorted(lines))


def _mac_processor() -> tuple[str, ...]:
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ()
    return (done.stdout.strip(),)
