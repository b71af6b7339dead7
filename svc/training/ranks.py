"""The processes of one run: which of them this is, and how they keep equal (torch.distributed).

Every process trains on clips of its own with nets of its own; gradients are averaged once per optimiser step, after the
last backward. That is exact for two adversaries, frozen nets, accumulated micro-batches and skipped steps, and no
process waits for another inside a backward.

Tensors of a net travel by nccl on CUDA devices and by gloo elsewhere; what the host decides (whether to stop, what went
wrong, how large a batch is) travels by gloo, so that no device is waited for.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svc.errors import ConfigError, DeviceError, SvcError
from svc.training.buckets import flatten_gradients, into_buckets, spread_gradients
from svc.training.launching import follow_launcher, place

logger = logging.getLogger(__name__)

_FINE = "\0"  # before a text that is no error
_MEETING = 600  # seconds that all processes have to appear
_PATIENCE = 3600  # seconds of the longest evaluation with a save, for which the others wait


class PeerError(SvcError):
    """Another process of the run has failed. Empty where that process or rank 0 tells the user."""


@dataclass(frozen=True)
class Shares:
    """By what the mean of a local batch is multiplied so that the mean over ranks is the mean over the whole batch."""

    clips: float = 1.0
    """For means over clips, each of which counts the same: windows of audio, mels and what judges them."""
    frames: float = 1.0
    """For means over the frames that are no padding."""
    cells: float = 1.0
    """For means over clips times frames, padding included, of a batch padded to its longest clip."""


def shares_of(extents: Sequence[Sequence[float]], rank: int) -> Shares:
    """Return the weights of a rank's batch in the whole one; all ranks pad to the same length.

    Args:
        extents: of every rank: clips that count, and their frames without padding; both 0 where the
            batch is only there so that the rank takes part.
        rank: whose weights.
    """
    world, (clips, frames) = len(extents), extents[rank]
    all_clips, all_frames = (sum(row[column] for row in extents) for column in (0, 1))
    share = world * clips / all_clips
    return Shares(clips=share, frames=world * frames / all_frames, cells=share)


class Ranks:
    """The processes that train together. Made by `single` or `from_environment`; a context manager.

    Args:
        rank: number of this process, from 0.
        world: how many there are.
        local_rank: number of this process on its machine.
        local_world: how many are on its machine.
    """

    def __init__(
        self, rank: int = 0, world: int = 1, local_rank: int = 0, local_world: int = 1
    ) -> None:
        self.rank, self.world = rank, world
        self.local_rank, self.local_world = local_rank, local_world
        self._ready = world == 1

    @classmethod
    def single(cls) -> Ranks:
        """Return the one process of a run that is not shared; nothing is imported, nothing waits."""
        return cls()

    @classmethod
    def from_environment(cls, *, backend: str | None = None, patience: float = _PATIENCE) -> Ranks:
        """Join the processes that torchrun or ``--gpus`` has started; `single` where nothing has.

        Args:
            backend: of torch.distributed; None takes nccl for CUDA tensors and gloo for the others.
            patience: seconds that one process may let the others wait.

        Returns:
            The ranks; all processes have met.

        Raises:
            ConfigError: the variables of the launcher are incomplete.
            PeerError: the other processes did not come.
        """
        rank, world, local_rank, local_world = place(os.environ)
        if world == 1:
            return cls(local_rank=local_rank)
        import torch.distributed as dist

        # Imported later, its functions would keep the group for ever, as their default.
        import torch.distributed.nn.functional
        from torch.distributed.rendezvous import rendezvous

        ranks = cls(rank, world, local_rank, local_world)
        if backend is None:
            with_cuda = torch.cuda.is_available() and dist.is_nccl_available()
            backend = "cpu:gloo,cuda:nccl" if with_cuda else "gloo"

        def meet() -> None:
            store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=_MEETING)))
            waits = timedelta(seconds=patience)
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world, timeout=waits
            )

        ranks._call(meet, "the processes of this run did not find each other")
        follow_launcher()
        return ranks

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error the others may be gone, and leaving in order would wait for them.
        if error is None:
            self.close()
        elif isinstance(error, SvcError) and not (self._ready or isinstance(error, PeerError)):
            texts = self.exchange(str(error))
            if any(not text.startswith(_FINE) for text in texts[: self.rank]):
                raise PeerError("") from error

    def close(self) -> None:
        """Leave when all processes do."""
        if self.world > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                self.barrier()
                self._leave()

    @property
    def is_main(self) -> bool:
        """Is this the process that writes files and shows progress?"""
        return self.rank == 0

    def device(self, name: str | None) -> str | None:
        """Return the device of this process, in the words of `devices.resolve_device`.

        Args:
            name: what was asked for; None, ``auto`` and ``cuda`` give each process of a machine a GPU of its own.

        Raises:
            DeviceError: one certain GPU is asked for several processes, or there are too few.
        """
        if self.world == 1:
            return name
        wanted = "auto" if name is None else name.lower()
        if wanted == "cpu":
            return wanted
        if wanted not in ("auto", "cuda"):
            raise DeviceError(
                f'the device "{name}" is one, and this run has {self.world} processes: leave --device out, or take '
                "--device cpu"
            )
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise DeviceError(
                f"{self.local_world} processes are to train on this machine, which has {count} CUDA devices: start "
                "fewer, or take --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"

    # ---- tensors, on their device ----------------------------------------------------------------

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks, in place; no device is waited for.

        Called by all ranks with the same list. Where some ranks have no gradient it counts as 0, and where none has
        one there is none afterwards. What needs memory comes first: when that runs out nothing has been sent, and the
        call may be made again.

        Args:
            parameters: of one net, on one device.

        Raises:
            PeerError: another process is gone.
        """
        if self.world == 1:
            return
        import torch.distributed as dist

        wanted = [parameter for parameter in parameters if parameter.requires_grad]
        buckets = [(bucket, flatten_gradients(bucket)) for bucket in into_buckets(wanted)]

        def send() -> list[bool]:
            present = torch.tensor([p.grad is not None for p in wanted], dtype=torch.uint8)
            dist.all_reduce(present, dist.ReduceOp.MAX)
            waits = [dist.all_reduce(flat, async_op=True) for _, flat in buckets]
            for wait in waits:
                wait.wait()  # with nccl: for the device's queue, not for the host
            return [bool(value) for value in present.tolist()]

        present = dict(zip(map(id, wanted), self._call(send), strict=True))
        for bucket, flat in buckets:
            spread_gradients(bucket, flat.div_(self.world), [present[id(p)] for p in bucket])

    def any(self, flag: Tensor) -> Tensor:
        """Return whether a flag is set on any rank; no device is waited for.

        Args:
            flag: (), 0 or not; of any type, on any device.

        Returns:
            (), 0 or 1 in the flag's type, the same on all ranks.
        """
        if self.world == 1:
            return flag
        import torch.distributed as dist

        common = (flag.detach() != 0).to(torch.float32).reshape(1)
        self._call(lambda: dist.all_reduce(common, dist.ReduceOp.MAX))
        return common.reshape(()).to(flag.dtype)

    @torch.no_grad()
    def broadcast(self, module: nn.Module) -> None:
        """Give all ranks the parameters and buffers of rank 0."""
        if self.world == 1:
            return
        import torch.distributed as dist

        tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
        for tensor in tensors.values():
            sent = tensor.detach().contiguous()
            self._call(functools.partial(dist.broadcast, sent, 0))
            if sent.data_ptr() != tensor.data_ptr():
                tensor.copy_(sent)

    # ---- what the host decides -------------------------------------------------------------------

    def table(self, values: Sequence[float]) -> list[list[float]]:
        """Return the numbers of every rank, a row for each; exact to 2^53."""
        own = torch.tensor(values, dtype=torch.float64)
        if self.world == 1:
            return [own.tolist()]
        import torch.distributed as dist

        rows = [torch.empty_like(own) for _ in range(self.world)]
        self._call(lambda: dist.all_gather(rows, own))
        return [row.tolist() for row in rows]

    def agree(self, value: bool) -> bool:
        """Return, on all ranks, whether it is true on any of them."""
        return any(row[0] for row in self.table([value]))

    def exchange(self, text: str) -> list[str]:
        """Return the texts of all ranks, in their order."""
        if self.world == 1:
            return [text]
        import torch.distributed as dist

        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        lengths = [int(row[0]) for row in self.table([len(data)])]
        row = torch.zeros(max(1, *lengths), dtype=torch.uint8)
        row[: len(data)] = torch.from_numpy(data.copy())
        rows = [torch.empty_like(row) for _ in range(self.world)]
        self._call(lambda: dist.all_gather(rows, row))
        return [
            bytes(got[:length].numpy()).decode("utf-8", "surrogatepass")
            for got, length in zip(rows, lengths, strict=True)
        ]

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.table([0.0])

    # ---- before training, where each may meet an error of its own ---------------------------------

    def gather(self, text: str) -> list[str]:
        """Return the texts of all ranks, in their order; until they are `ready`.

        An error that one of them has met is an error of all, told once: leaving the context of the ranks by an
        `SvcError` hands it on.

        Raises:
            PeerError: empty, where another rank tells what is wrong.
        """
        texts = self.exchange(_FINE + text)
        if any(not text.startswith(_FINE) for text in texts):
            self._ready = True  # nobody is left to be told
            raise PeerError("")
        return [text.removeprefix(_FINE) for text in texts]

    def ready(self, facts: Mapping[str, Any], advice: str) -> None:
        """Wait until all ranks are ready to train, and make sure that they are about to train the same thing.

        Args:
            facts: plain values by name, the same on all ranks.
            advice: what to do where they differ.

        Raises:
            ConfigError: what differs from rank 0.
            PeerError: empty, where another rank tells what is wrong.
        """
        texts = self.gather("\n".join(f"{name} {value!r}" for name, value in facts.items()))
        self._ready = True
        for rank, text in enumerate(texts):
            pairs = zip(texts[0].split("\n"), text.split("\n"), strict=False)
            found = [f"{here}, not {there}" for there, here in pairs if here != there]
            if found and not self.is_main:
                raise PeerError("")
            if found:
                raise ConfigError(f"process {rank} of this run has {'; '.join(found)}: {advice}")

    # ---- random numbers --------------------------------------------------------------------------

    def reseed(self, seed: int, step: int) -> None:
        """Set the global generators of all ranks but 0, whose stream is the one that is saved.

        Called before every step, so that a resume needs no state of these ranks, and no two of them draw the same.

        Args:
            seed: of the run.
            step: that is about to be taken.
        """
        if not self.is_main:
            high, low = np.random.SeedSequence([seed, self.rank, step]).generate_state(2)
            torch.manual_seed((int(high) << 31) ^ int(low))

    # ---- carrying out ----------------------------------------------------------------------------

    def _leave(self) -> None:
        """End the group and its threads: one that still has to free a tensor when Python is gone
        would abort the process.
        """
        import torch.distributed as dist

        dist.destroy_process_group()
        gc.collect()  # it is part of a reference cycle

    def _call(self, work: Callable[[], Any], what: str = "") -> Any:
        try:
            return work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # torch.distributed's own errors are all of this kind.
            if not self.is_main:
                raise PeerError("") from error
            if what:
                raise PeerError(f"{what}: {' '.join(str(error).split())[:200]}") from error
            logger.info("%s", error)
            raise PeerError(
                "another process of this run is gone or did not answer; the same command goes on from the last "
                "checkpoint"
            ) from error
