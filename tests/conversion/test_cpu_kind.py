"""The kind of processor, as keys of the cache name it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch

from svc.conversion import cpu_kind as module
from svc.conversion.cpu_kind import cpu_kind, read_cpu_info

X86 = """processor\t: {core}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: A Processor @ 2.10GHz
cpu MHz\t\t: {core}00.5
flags\t\t: fpu sse sse2 {more} avx avx2 fma
bogomips\t: 42
"""
ARM = """processor\t: {core}
CPU implementer\t: 0x41
CPU part\t: {part}
Features\t: fp asimd {more}
"""


def x86(more: str) -> tuple[str, ...]:
    return read_cpu_info("\n".join(X86.format(core=core, more=more) for core in range(4)))


def test_what_decides_sums_is_read() -> None:
    assert x86("") == (
        "cpu family: 6",
        "flags: avx avx2 fma sse sse2",
        "model name: A Processor @ 2.10GHz",
        "model: 85",
        "vendor_id: GenuineIntel",
    )
    assert x86("avx512f amx_bf16") != x86("avx512f") != x86("")
    assert x86("md_clear ibrs") == x86("")  # safety, which a new kernel may add
    big, little = ARM.format(core=0, part="0xd4d", more="sve"), ARM.format(
        core=1, part="0xd05", more="sve"
    )  # fmt: skip
    assert read_cpu_info(big + "\n" + little) == (
        "CPU implementer: 0x41",
        "CPU part: 0xd05",
        "CPU part: 0xd4d",
        "Features: asimd fp sve",
    )
    assert read_cpu_info("") == ()


def test_the_kernels_of_torch_count() -> None:
    assert f"torch {torch.backends.cpu.get_cpu_capability()}" in cpu_kind()
    assert cpu_kind() == cpu_kind()
    code = (
        "import json; from svc.conversion.cpu_kind import cpu_kind; print(json.dumps(cpu_kind()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        fact for fact in cpu_kind() if not fact.startswith("torch ")
    ]  # where torch is not loaded, it is not for this


@pytest.mark.parametrize("system", ["Linux", "Darwin", "Windows"])
def test_where_nothing_can_be_read(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "processor", lambda: "a processor")
    monkeypatch.setattr(type(module._CPU_INFO), "read_text", fails)
    monkeypatch.setattr(subprocess, "run", fails)
    module._processor.cache_clear()
    try:
        assert cpu_kind()[0] == "a processor"
    finally:
        module._processor.cache_clear()
