"""Reading what a pickle would call, without running it.

`pickletools` only parses opcodes. The names found are sorted into three lists: what torch's weights-only loader allows,
bookkeeping classes that an inert stand-in can replace, and everything else, which is refused (spec_encoders 5.2).
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_TORCH_NAMES = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_parameter",
        "torch._tensor._rebuild_from_type_v2",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
        "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
        "_codecs.encode",
    }
)
_INERT_NAMES = frozenset(
    {
        "argparse.Namespace",
        "typing.Any",
        "collections.defaultdict",
        "builtins.dict",
        "builtins.list",
        "builtins.int",
        "builtins.float",
        "builtins.str",
        "builtins.bool",
        "builtins.set",
        "builtins.long",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    }
)
_INERT_PREFIXES = ("fairseq.", "omegaconf.")
_LEGACY_PICKLES = 4  # magic number, protocol, system info, the object; raw storages follow


class Inert:
    """A stand-in for a class whose content nobody reads: accepts anything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Accept and forget any arguments."""

    def __setstate__(self, state: Any) -> None:
        """Accept and forget a pickled state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Accept and forget an item."""

    def append(self, item: Any) -> None:
        """Accept and forget an item."""

    def extend(self, items: Any) -> None:
        """Accept and forget items."""


def empty_dict(*args: Any) -> dict[Any, Any]:
    """Stand in for `collections.defaultdict`: the loader fills real dictionaries only."""
    return {}


def _normal(module: str, name: str) -> str:
    """Return the dotted name as the weights-only loader spells it (Python 2 names mapped)."""
    return f"{'builtins' if module == '__builtin__' else module}.{name}"


def _stream_globals(stream: IO[bytes]) -> set[str]:
    """Return the names one pickle asks for. Raises ValueError on garbage."""
    names: set[str] = set()
    strings: list[str] = []  # STACK_GLOBAL takes the two strings pushed last
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            names.add(_normal(module, name))
        elif opcode.name == "STACK_GLOBAL":
            if len(strings) < 2:
                raise ValueError("a name is built at run time")
            names.add(_normal(strings[-2], strings[-1]))
        elif opcode.name in ("EXT1", "EXT2", "EXT4"):
            names.add("copyreg extension code")
        elif isinstance(argument, str) and "UNICODE" in opcode.name:
            strings.append(argument)
        elif opcode.name == "MEMOIZE" and strings:
            memo[len(memo)] = strings[-1]
        elif opcode.name in ("BINPUT", "LONG_BINPUT") and strings:
            memo[int(argument or 0)] = strings[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET") and int(argument or 0) in memo:
            strings.append(memo[int(argument or 0)])
    return names


def pickle_globals(path: Path) -> set[str]:
    """Return every dotted name that loading a torch file would import; nothing is imported or run.

    Args:
        path: a zip-format or legacy torch file, or any pickle.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: not such a file.
    """
    if zipfile.is_zipfile(path):
        names: set[str] = set()
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.endswith(".pkl"):
                    names |= _stream_globals(io.BytesIO(archive.read(entry)))
        return names
    with path.open("rb") as stream:
        names = _stream_globals(stream)
        for _ in range(_LEGACY_PICKLES - 1):
            try:
                names |= _stream_globals(stream)
            except (ValueError, pickle.UnpicklingError, UnicodeDecodeError):
                break  # a plain pickle has one part; what follows in a torch file is raw data
        return names


def _is_torch(name: str) -> bool:
    storage = name.startswith("torch.") and name.endswith("Storage") and name.count(".") == 1
    dtype = name.startswith("torch.") and name.removeprefix("torch.").rstrip("0123456789").rstrip(
        "_"
    ) in {
        "float",
        "bfloat",
        "int",
        "uint",
        "half",
        "long",
        "double",
        "bool",
        "complex",
    }
    return name in _TORCH_NAMES or storage or dtype


def _is_inert(name: str) -> bool:
    return name in _INERT_NAMES or name.startswith(_INERT_PREFIXES)


def forbidden_globals(path: Path, *, allow_inert: bool = False) -> list[str]:
    """Return the names in a file that are neither tensors' nor (if allowed) harmless bookkeeping, sorted."""
    return sorted(
        name
        for name in pickle_globals(path)
        if not _is_torch(name) and not (allow_inert and _is_inert(name))
    )


def stand_ins(path: Path) -> list[tuple[Callable[..., Any], str]]:
    """Return what replaces each bookkeeping name in a file, for `torch.serialization.safe_globals`."""
    names = sorted(name for name in pickle_globals(path) if _is_inert(name) and not _is_torch(name))
    return [(empty_dict if name == "collections.defaultdict" else Inert, name) for name in names]
