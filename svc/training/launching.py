"""Starting the processes of one run on this machine, and knowing which of them one is.

The engine is torch's own (torch.distributed.elastic), the one under torchrun; runs over several machines are started
with torchrun itself. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from svc.errors import ConfigError, DeviceError, SvcError
from svc.threads import cpu_count

ALL = "all"
"""In the place of a number of processes: one for each GPU."""
_SAVING = 600  # seconds a run may take to save after a signal
_POLL = 0.2  # seconds
_WATCH = 2.0  # seconds between two looks at who the parent is


def place(environment: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Return rank, world, local rank and local world as a launcher says; (0, 1, 0, 1) without one.

    Args:
        environment: variables RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE; the last may be absent.

    Raises:
        ConfigError: they are incomplete or no sensible numbers.
    """
    if environment.get("WORLD_SIZE", "1") == "1" or "RANK" not in environment:
        return 0, 1, 0, 1
    found = {name: environment.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    found["LOCAL_WORLD_SIZE"] = environment.get("LOCAL_WORLD_SIZE", found["WORLD_SIZE"])
    try:
        rank, world, local_rank, local_world = (int(value or "") for value in found.values())
    except ValueError:
        rank = world = local_rank = local_world = -1
    if not (0 <= rank < world and 0 <= local_rank < local_world):
        said = ", ".join(f"{name}={value}" for name, value in found.items())
        raise ConfigError(
            f"the launcher's variables make no sense ({said}): start with  svc ... --gpus N  or with torchrun"
        )
    return rank, world, local_rank, local_world


def is_follower(environment: Mapping[str, str]) -> bool:
    """Return whether a process is one of several and not rank 0, which alone writes and shows anything."""
    return environment.get("WORLD_SIZE", "1") != "1" and environment.get("RANK", "0") != "0"


def have_met() -> bool:
    """Return whether this process has joined others."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and bool(dist.is_initialized())


def count_of(asked: str | int, device: str | None, cuda_devices: int) -> int:
    """Return how many processes to start.

    Args:
        asked: a number, or `ALL`.
        device: as given; None and ``auto`` mean GPUs.
        cuda_devices: how many this machine has.

    Raises:
        ConfigError: no number, or below 1.
        DeviceError: there are not so many GPUs.
    """
    name = "auto" if device is None else device.lower()
    on_gpus = name in ("auto", "cuda")
    if asked == ALL:
        count = max(1, cuda_devices) if on_gpus else 1
    elif str(asked).isdecimal() and int(asked) > 0:
        count = int(asked)
    else:
        raise ConfigError(f'--gpus is "{asked}", and must be a number above 0, or {ALL}')
    if count > 1 and not on_gpus and name != "cpu":
        raise DeviceError(
            f"--gpus {count} takes a GPU for each process, and --device {device} is one: leave --device out"
        )
    if count > 1 and on_gpus and count > cuda_devices:
        raise DeviceError(
            f"--gpus {count}, but this machine has {cuda_devices} CUDA devices that torch can use; give at most that "
            "many, or --device cpu for processes on the CPU"
        )
    return count


def launch(asked: str | int, device: str | None, arguments: Sequence[str]) -> int | None:
    """Run a command in several processes of this machine, and wait for them.

    A signal is handed on to all of them, which save and end; a second one ends them at once. When one fails the others
    are ended.

    Args:
        asked: how many, or `ALL`.
        device: as given.
        arguments: of the command line.

    Returns:
        What the command ends with; None where there is nothing to launch: one process is enough, or this one has been
        launched itself.

    Raises:
        ConfigError: no such number, or not the one that torchrun has started.
        DeviceError: there are not so many GPUs.
        SvcError: a process was killed.
    """
    if "LOCAL_RANK" in os.environ:
        there = place(os.environ)[3]
        if str(asked) not in (str(there), ALL):
            raise ConfigError(
                f"--gpus {asked}, but the launcher has started {there} processes here: leave --gpus out"
            )
        return None
    import torch

    count = count_of(asked, device, torch.cuda.device_count())
    return None if count == 1 else _run(count, arguments)


def _run(count: int, arguments: Sequence[str]) -> int:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.multiprocessing import (
        DefaultLogsSpecs,
        SignalException,
        start_processes,
    )

    # It tells of every signal it hands on, in several lines.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    name = run_name(arguments)
    with _handled_signals():
        processes = start_processes(
            "svc",
            sys.executable,
            args=dict.fromkeys(range(count), ("-m", "svc", *arguments)),
            envs={number: _variables(number, count, store.port, name) for number in range(count)},
            logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        )
        told: signal.Signals | None = None
        try:
            result = processes.wait(period=_POLL)
        except SignalException as stop:
            told = stop.sigval
            try:
                processes.close(told, timeout=_SAVING)
            except SignalException:
                processes.close(signal.SIGKILL, timeout=5)
            result = processes.wait(0)
    failures = {} if result is None else {n: f.exitcode for n, f in result.failures.items()}
    return exit_code(failures, told)


def exit_code(failures: Mapping[int, int], told: signal.Signals | None) -> int:
    """Return what a run ends with.

    Args:
        failures: exit codes of the processes that did not end with 0; -15 = by SIGTERM.
        told: the signal that was handed on, if any.

    Raises:
        SvcError: one of them was killed, and not by us, or failed by itself.
    """
    ours = {-signal.SIGTERM, *(() if told is None else (-told, -signal.SIGKILL))}
    for number, code in sorted(failures.items()):
        if code < 0 and code not in ours:
            why = " (perhaps the machine ran out of memory)" if code == -signal.SIGKILL else ""
            raise SvcError(
                f"process {number} was ended by {signal.Signals(-code).name}{why}, and with it the run; the same "
                "command goes on where it stopped"
            )
    codes = {number: code for number, code in sorted(failures.items()) if code > 0}
    if codes:
        number, code = next(iter(codes.items()))
        if number > 0 and code != SvcError.exit_code and not told:
            raise SvcError(
                f"process {number} ended with status {code}, and with it the run; what it said stands above, and the "
                "same command goes on where it stopped"
            )
        return code
    return 128 + (told or signal.SIGTERM) if failures or told else 0


def run_name(arguments: Sequence[str]) -> str:
    """Return the name of a run: the port is another one at each start, and the same command must find its own again.

    Args:
        arguments: of the command line.
    """
    facts = (list(arguments), str(Path.cwd()), socket.gethostname())
    return (
        "gpus-" + hashlib.sha256(repr(facts).encode("utf-8", "backslashreplace")).hexdigest()[:12]
    )


def _variables(number: int, count: int, port: int, name: str) -> dict[str, str]:
    """Return what torch.distributed reads in one of the processes, as torchrun would set it."""
    values = {
        "RANK": number,
        "LOCAL_RANK": number,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # it is kept here
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_RUN_ID": name,
    }
    variables = {name: str(value) for name, value in values.items()}
    if "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, cpu_count() // count))
    if sys.platform == "linux" and "GLOO_SOCKET_IFNAME" not in os.environ:
        # By the machine's name it may find an address that leads nowhere.
        variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables


@contextlib.contextmanager
def _handled_signals() -> Iterator[None]:
    """Let the engine catch what ends a run, and put everything back afterwards.

    A terminal that closes is caught, too: the processes are no part of its session and would go on unseen. With nohup
    nothing happens.
    """
    names = ["SIGTERM", "SIGINT"]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        names.append("SIGHUP")
    variable = "TORCHELASTIC_SIGNALS_TO_HANDLE"
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    asked = os.environ.get(variable)
    os.environ[variable] = ",".join(names)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
        if asked is None:
            del os.environ[variable]
        else:
            os.environ[variable] = asked


def follow_launcher() -> None:
    """Let this process save and end when its launcher is killed, or it would train on unseen.

    Does nothing where it was started by hand: then its parent may well leave before it.
    """
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher watch", daemon=True).start()
