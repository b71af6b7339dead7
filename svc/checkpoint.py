"""Weight files: the only place that loads or saves tensors.

Reading never runs code from a file: `svc.torch_file` reads torch's containers through a pickle machine that can only
make tensors and plain containers. Names that only carry bookkeeping (fairseq dictionaries, OmegaConf nodes) become
inert objects where that is asked for; any other name is refused and named (spec_encoders 5.2). Saves are atomic.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svc.atomic import atomic_path, check_space
from svc.errors import CheckpointError, MissingFileError, OutputError
from svc.safe_pickle import RefusedError, UnsupportedError, printable
from svc.torch_file import check_sums, read_torch_file

logger = logging.getLogger(__name__)

_MAX_LISTED = 6  # tensors named in one error line
_MAX_NAMES = 3  # callables named in one error line


def _existing(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"checkpoint {file} is not there; check the path")
    return file


def load_checkpoint(
    path: str | Path, *, mmap: bool = False, verify: bool = False
) -> dict[str, Any]:
    """Load a file of tensors and plain Python containers onto the CPU.

    Args:
        path: a `.pth`/`.pt` file, or `.safetensors` (returned as ``{"model": tensors, "metadata": texts}``).
        mmap: map the tensors from disk instead of reading them. Such a tensor may be written to: the file stays as
            it is.
        verify: compare all of it with its checksums first: a bit that has changed would not be seen.

    Returns:
        The dictionary that was saved.

    Raises:
        MissingFileError: no such file.
        CheckpointError: truncated, damaged, not a checkpoint, or refused because it asks for code to be run.
    """
    file = _existing(path)
    if verify:
        try:
            check_sums(file, any_container=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{file}: not a readable checkpoint ({error}); copy or download it again"
            ) from error
    if file.suffix == ".safetensors":
        tensors, metadata = load_safetensors(file)
        return {"model": tensors, "metadata": metadata}
    return _load_mapping(file, mmap=mmap)


def load_tensor(path: str | Path) -> Tensor:
    """Load a file that holds one bare tensor onto the CPU. Raises MissingFileError or CheckpointError."""
    file = _existing(path)
    loaded = _load(file, mmap=False)
    if not isinstance(loaded, Tensor):
        raise CheckpointError(f"{file}: holds a {type(loaded).__name__}, not a tensor")
    return loaded


def _load(file: Path, *, mmap: bool, inert: bool = False, drop: Sequence[str] = ()) -> Any:
    try:
        return read_torch_file(file, mapped=mmap, inert=inert, drop=drop)
    except RefusedError as error:
        raise CheckpointError(
            f"{file}: refused: loading it would call {', '.join(error.names[:_MAX_NAMES])}, which "
            "plain tensors never need and which could run any code; get the file from a source you "
            "trust, as plain tensors or .safetensors"
        ) from error
    except UnsupportedError as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    except (OSError, ValueError) as error:
        logger.debug("%s: %s: %s", file, type(error).__name__, error)
        raise CheckpointError(
            f"{file}: not a readable checkpoint ({file.stat().st_size:,} bytes; truncated, damaged "
            "or another format); copy or download it again"
        ) from error


def _load_mapping(
    file: Path, *, mmap: bool, inert: bool = False, drop: Sequence[str] = ()
) -> dict[str, Any]:
    loaded = _load(file, mmap=mmap, inert=inert, drop=drop)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{file}: holds a {type(loaded).__name__}, not a dictionary of weights; is it the right file?"
        )
    return dict(loaded)


def load_restricted(
    path: str | Path, *, drop: Sequence[str] = ("last_optimizer_state",)
) -> dict[str, Any]:
    """Load a fairseq-type file without fairseq (spec_encoders 5).

    Classes that only carry settings come back as `svc.safe_pickle.Inert`. The tensors are mapped from disk (of the
    older container those at odd positions are read), so an optimizer state of a gigabyte is never read.

    Args:
        path: the file.
        drop: top-level keys to forget at once.

    Returns:
        The dictionary that was saved, without the dropped keys.

    Raises:
        MissingFileError: no such file.
        CheckpointError: truncated, or refused: it names a callable outside the list of harmless ones.
    """
    return _load_mapping(_existing(path), mmap=True, inert=True, drop=drop)


def tensor_bytes(value: Any) -> int:
    """Return how many bytes the tensors and arrays in a tree of containers take in a file."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return int(1.5 * value.nbytes)  # pickled as text of Latin-1, in UTF-8
    if isinstance(value, Mapping):
        return sum(map(tensor_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(tensor_bytes, value))
    return 0


def save_checkpoint(obj: Mapping[str, Any], path: str | Path, *, read_back: bool = False) -> None:
    """Save a dictionary in torch's zip format: space is checked first, the old file stays until the new one is whole.

    Args:
        obj: what to save.
        path: the file.
        read_back: take the new file for whole only after every byte of it was read from the disk and fits its checksum.

    Raises:
        OutputError: full disk, read-only folder, or a disk that returns something else than was written.
    """
    file = Path(path)
    _save(dict(obj), file, (lambda written: _read_back(written, file)) if read_back else None)


def _read_back(written: Path, target: Path) -> None:
    if hasattr(os, "posix_fadvise"):  # otherwise it is the memory's copy that is read
        with written.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        check_sums(written)
    except ValueError as error:
        raise OutputError(
            f"cannot write {target}: what was written does not read back ({error}); the disk or its "
            "connection is damaged: check it, or write to another one"
        ) from error


def save_tensor(tensor: Tensor, path: str | Path) -> None:
    """Save one bare tensor, on the CPU and without surplus storage, atomically. Raises OutputError."""
    _save(tensor.detach().cpu().contiguous().clone(), Path(path))


def _save(obj: Any, file: Path, check: Callable[[Path], None] | None = None) -> None:
    check_space(file, tensor_bytes(obj))
    with atomic_path(file, check=check) as temporary:
        try:
            # Through a handle: by name, torch writes the name of the temporary file into it, so that no
            # two saves are equal, and refuses one without a suffix.
            with temporary.open("wb") as stream:
                torch.save(obj, stream)
        except RuntimeError as error:
            # torch reports a failing write as a RuntimeError, without errno.
            raise OutputError(
                f"cannot write {file}: {str(error).splitlines()[0]}; is the disk full?"
            ) from error


def load_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Load a `.safetensors` file onto the CPU; returns tensors and metadata. Raises CheckpointError."""
    from safetensors import SafetensorError, safe_open

    file = _existing(path)
    try:
        with safe_open(str(file), framework="pt", device="cpu") as handle:
            names = list(handle.keys())
            return {name: handle.get_tensor(name) for name in names}, handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged_safetensors(file, error) from error


def safetensors_metadata(path: str | Path) -> dict[str, str]:
    """Read the texts of a `.safetensors` file, and none of its tensors. Raises CheckpointError."""
    from safetensors import SafetensorError, safe_open

    file = _existing(path)
    try:
        with safe_open(str(file), framework="pt", device="cpu") as handle:
            return handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged_safetensors(file, error) from error


def _damaged_safetensors(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file}: not a readable .safetensors file ({error}); copy or download it again"
    )


def save_safetensors(
    state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Save tensors as `.safetensors`, atomically. Shared tensors are written once per name. Raises OutputError."""
    from safetensors.torch import save_file

    file = Path(path)
    check_space(file, tensor_bytes(state))
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with atomic_path(file) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user lets others do with new files
        save_file(own, str(temporary), metadata=dict(metadata or {}))
        temporary.chmod(mode)  # its writer lets nobody


def _listing(lines: Iterable[str]) -> str:
    items = [printable(line) for line in lines]
    shown = "; ".join(items[:_MAX_LISTED])
    return shown + (f"; and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else "")


def _starts(name: str, prefixes: Sequence[str]) -> bool:
    return any(name.startswith(prefix) for prefix in prefixes)


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    what: str,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    hint: str = "",
) -> None:
    """Copy tensors into a module; every tensor must match, or nothing is loaded.

    Args:
        module: the module to fill; half-precision tensors are up-cast to its dtype.
        state: tensors by name.
        what: the file, for messages.
        allow_missing: name prefixes the file may lack.
        allow_unexpected: name prefixes the module may lack.
        hint: the likely cause of a mismatch and what to do.

    Raises:
        CheckpointError: names the tensors, both shapes, and the hint.
    """
    own = module.state_dict()
    wrong = [
        f"{name} is {list(state[name].shape)} in the file and {list(tensor.shape)} in the model"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    missing = [name for name in own if name not in state and not _starts(name, allow_missing)]
    surplus = [name for name in state if name not in own and not _starts(name, allow_unexpected)]
    problems = []
    if wrong:
        problems.append(_listing(wrong))
    if missing:
        problems.append(f"missing in the file: {_listing(missing)}")
    if surplus:
        problems.append(f"unknown to the model: {_listing(surplus)}")
    if problems:
        ending = f". {hint}" if hint else ""
        raise CheckpointError(f"{what} does not fit the model: {'. '.join(problems)}{ending}")
    module.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def strip_prefix(state: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    """Remove the prefix that data-parallel wrappers leave on every name."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def rename(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str:
    """Return a tensor's name after the first rule (pattern, replacement) that matches it."""
    for pattern, replacement in rules:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return name


def classic_weight_norm_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``parametrizations.weight.original0/1`` to ``weight_g/weight_v`` (spec_core 2.2)."""
    endings = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    pattern = re.compile("|".join(re.escape(ending) for ending in endings))
    return {
        pattern.sub(lambda m: endings[m.group()], name): tensor for name, tensor in state.items()
    }


def fold_weight_norm(state: Mapping[str, Tensor], *, dim: int = 0) -> dict[str, Tensor]:
    """Replace each pair ``weight_g``, ``weight_v`` by ``weight`` = g · v / ‖v‖.

    Args:
        state: tensors by name, with classic or parametrised names.
        dim: the axis the norm keeps (0 everywhere but in HuBERT's positional convolution, where it is 2).

    Returns:
        The state with plain weights.

    Raises:
        CheckpointError: a ``weight_g`` that has not one value per slice of its ``weight_v``.
    """
    classic = classic_weight_norm_keys(state)
    folded: dict[str, Tensor] = {}
    for name, tensor in classic.items():
        if name.endswith("weight_g") and name[:-1] + "v" in classic:
            continue
        if name.endswith("weight_v") and name[:-1] + "g" in classic:
            axes = tuple(axis for axis in range(tensor.dim()) if axis != dim)
            # The norm is a long sum: in float32 it is off by 2e-6, more than a net loses elsewhere.
            exact = tensor.double()
            norm = torch.linalg.vector_norm(exact, dim=axes, keepdim=True)
            gain = classic[name[:-1] + "g"].double()
            if gain.numel() != norm.numel():
                raise CheckpointError(
                    f"the tensor {printable(name[:-1])}g has {gain.numel()} values where its weight_v "
                    f"needs {norm.numel()}: the file is damaged; copy or download it again"
                )
            folded[name[:-2]] = (exact * (gain.reshape(norm.shape) / norm)).to(tensor.dtype)
        else:
            folded[name] = tensor
    return folded


def step_of(path: str | Path) -> int | None:
    """Return the step in a name like ``G_800.pth`` (of a vocoder's run ``V_800.pth``), or None for any other name."""
    match = re.fullmatch(r"[GDV]_(\d+)\.pth", Path(path).name)
    return int(match.group(1)) if match else None


def list_checkpoints(run_dir: str | Path, kind: str) -> list[Path]:
    """Return the files ``<kind>_<step>.pth`` of a run, oldest step first."""
    folder = Path(run_dir)
    if not folder.is_dir():
        return []
    pattern = re.compile(rf"{re.escape(kind)}_(\d+)\.pth")
    found = [(int(m.group(1)), p) for p in folder.iterdir() if (m := pattern.fullmatch(p.name))]
    return [path for _, path in sorted(found)]


def find_latest(run_dir: str | Path, kind: str) -> Path | None:
    """Return the checkpoint of a run with the highest step, or None."""
    files = list_checkpoints(run_dir, kind)
    return files[-1] if files else None


def prune(run_dir: str | Path, kind: str, keep: int) -> list[Path]:
    """Delete all but the `keep` newest checkpoints by step; step 0 (a base model) always stays.

    Args:
        run_dir: folder of the run.
        kind: "G", "D" or "V"; only names ``<kind>_<digits>.pth`` are touched.
        keep: how many to keep; 0 keeps all.

    Returns:
        The deleted files.
    """
    if keep <= 0:
        return []
    old = [path for path in list_checkpoints(run_dir, kind) if step_of(path) != 0][:-keep]
    for path in old:
        path.unlink(missing_ok=True)
    return old
