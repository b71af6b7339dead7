"""Reading a pickle without the power to run anything.

A pickle is a program for a stack machine; Python's own machine imports what the program names and calls what lies on
the stack. `read_pickle` is the same machine without those powers: nothing is imported, no attribute is looked up or
set, no method of an object is called, and a name from the file is only ever compared with a table. What it can call
are the functions of that table, which the caller writes. Reading and checking are one pass over the same opcodes, so
there is no gap between what was checked and what is done.

Names of bookkeeping classes (spec_encoders 5.2) can be replaced by `Inert` objects; a pickle with any other name is
refused, with all such names listed.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import IO, Any

MAX_BYTES = 1 << 25
"""Longest pickle that is read, bytes: that of a weight file has some hundred thousand, of which a machine of objects
makes up to a hundred times as much memory. Long texts do not count, in which arrays of numpy have their data: they
take little more memory than they take of the file."""

_LONG_TEXT = 4096  # bytes

_MISHAPS = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
_MAX_BITS = 1024  # of a whole number: Python refuses to print much longer ones
_MAX_NAMES = 20  # refused names that are remembered for the message
_MAX_TEXT = 200  # characters of a text from a file that a message shows

INERT_NAMES = frozenset({
    "argparse.Namespace", "typing.Any", "builtins.dict", "builtins.list", "builtins.tuple", "builtins.int",
    "builtins.float", "builtins.str", "builtins.bool", "builtins.long", "numpy.dtype", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
})  # fmt: skip
INERT_PREFIXES = ("fairseq.", "omegaconf.")


class RefusedError(ValueError):
    """The pickle names something outside the table. `names`: the dotted names, in the file's order, printable."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"it asks for {', '.join(names)}")
        self.names = names


class UnsupportedError(ValueError):
    """A sound file of a kind that is not read here; the message says which and what to do."""


class Inert:
    """What stands for an object of a class that is only bookkeeping: it keeps nothing and does nothing."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name  # dotted name of the class, for the curious


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A name on the stack. `build` makes the value of a call; None: a call gives an `Inert`."""

    dotted: str
    build: Callable[..., object] | None


@dataclass(frozen=True, slots=True)
class Builder:
    """An entry of the table that a pickle may call, with arguments that are plain data."""

    build: Callable[..., object]


class Stateful:
    """Base of what a builder may make for the pickle to complete: the only objects whose state a pickle can set."""

    __slots__ = ()

    def set_state(self, state: Any) -> None:
        """Check and keep the state, which is plain data. Raises ValueError or UnsupportedError."""
        raise NotImplementedError


def is_inert(dotted: str) -> bool:
    """Return whether a name is one of the bookkeeping classes that fairseq's files hold."""
    return dotted in INERT_NAMES or dotted.startswith(INERT_PREFIXES)


def printable(text: str) -> str:
    """Return a text from a file as one safe line: control characters escaped, cut to 200 characters."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= _MAX_TEXT else f"{shown[:_MAX_TEXT]}..."


def read_pickle(
    stream: IO[bytes],
    names: Mapping[str, object],
    *,
    inert: bool = False,
    persistent: Callable[[object], object] | None = None,
) -> Any:
    """Read one pickle of any protocol; on return the stream stands right behind it.

    Args:
        stream: where the pickle starts.
        names: what each dotted name ("module.name", Python 3 spelling) stands for: a `Builder`, or any other object as
            plain data. It is added to what containers need (`collections.OrderedDict`, `_codecs.encode`, ...).
        inert: replace bookkeeping classes (`is_inert`) by `Inert` objects instead of refusing them.
        persistent: gives the value of a persistent id; None: such ids are an error.

    Returns:
        Plain Python data, results of builders, data from `names`, `Inert` objects.

    Raises:
        RefusedError: it names something else; nothing of that has been imported or called.
        UnsupportedError: as raised by a builder or by `persistent`.
        ValueError: truncated, damaged, too long, or no pickle; the message says how.
    """
    machine = _Machine(names, inert, persistent)
    try:
        result = machine.run(stream)
    except _MISHAPS as error:
        # Garbage trips the machine in as many ways. A refused name found on the way is the better explanation.
        if machine.refused:
            raise RefusedError(list(machine.refused)) from error
        if isinstance(error, UnsupportedError):
            raise
        raise ValueError(f"damaged pickle: {printable(str(error))}") from error
    if machine.refused:
        raise RefusedError(list(machine.refused))
    return result


_PLAIN = frozenset({str, int, float, bool, bytes, type(None), Inert})


def _key(value: Any) -> Any:
    """Return a dictionary key or set member if it is plain: hashing a deep tuple overflows the stack of C."""
    if type(value) not in _PLAIN and not (
        type(value) is tuple and all(type(item) in _PLAIN for item in value)
    ):
        raise ValueError(f"a {type(value).__name__} as a key")
    return value


def _ordered_dict(items: Any = ()) -> OrderedDict[Any, Any]:
    pairs = items.items() if isinstance(items, dict) else items
    return OrderedDict((_key(key), value) for key, value in pairs)


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}  # the factory is of no use; the items follow by themselves


def _set(items: Any = ()) -> set[Any]:
    return {_key(item) for item in items}


def _encode(text: Any, encoding: Any = "") -> bytes:
    """Protocol 2 writes bytes as a call of `_codecs.encode` with "latin1", the only encoding taken here."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an encoding other than latin1")
    return text.encode("latin-1")


_CONTAINERS: dict[str, object] = {
    "collections.OrderedDict": Builder(_ordered_dict),
    "collections.Counter": Builder(_ordered_dict),
    "collections.defaultdict": Builder(_default_dict),
    "builtins.set": Builder(_set),
    "builtins.complex": Builder(lambda real, imaginary: complex(float(real), float(imaginary))),
    "builtins.bytes": Builder(lambda: b""),  # protocol 2 writes empty bytes so
    "_codecs.encode": Builder(_encode),
}

_LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_PYTHON2_TEXTS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})


def _python2_text(argument: str) -> str | bytes:
    """Return a Python 2 string, which may have been text or bytes."""
    raw = argument.encode("latin-1")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


class _Machine:
    """The stack machine of the pickle format; one use."""

    def __init__(
        self,
        names: Mapping[str, object],
        inert: bool,
        persistent: Callable[[object], object] | None,
    ) -> None:
        self.refused: dict[str, None] = {}
        self._names = {**_CONTAINERS, **names}
        self._inert = inert
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # stacks below each open mark
        self._memo: dict[int, Any] = {}
        self._position = 0  # bytes read so far
        self._long = 0  # of these in long texts
        self._copied = 0  # items that builders were given so far
        self._actions: dict[str, Callable[[Any], object]] = {
            "GLOBAL": lambda argument: self._push_name(*str(argument).partition(" ")[::2]),
            "STACK_GLOBAL": self._stack_global,
            **dict.fromkeys(("EXT1", "EXT2", "EXT4"), self._extension),
            "INST": self._inst,
            "OBJ": self._obj,
            **dict.fromkeys(("REDUCE", "NEWOBJ"), self._reduce),
            "NEWOBJ_EX": self._newobj_ex,
            "BUILD": self._build,
            "PERSID": self._persistent_id,
            "BINPERSID": lambda _: self._persistent_id(self._stack.pop()),
            "MARK": self._mark,
            "POP": lambda _: self._stack.pop() if self._stack else self._pop_mark(),
            "POP_MARK": lambda _: self._pop_mark(),
            "DUP": lambda _: self._push(self._stack[-1]),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            "EMPTY_LIST": lambda _: self._push([]),
            "EMPTY_DICT": lambda _: self._push({}),
            "EMPTY_SET": lambda _: self._push(set()),
            "LIST": lambda _: self._push(self._pop_mark()),
            "TUPLE": lambda _: self._push(tuple(self._pop_mark())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            "DICT": self._dict,
            "FROZENSET": lambda _: self._push(frozenset(map(_key, self._pop_mark()))),
            "APPEND": lambda _: self._extend([self._stack.pop()]),
            "APPENDS": lambda _: self._extend(self._pop_mark()),
            "ADDITEMS": self._add_items,
            "SETITEM": lambda _: self._set_items([self._stack.pop(-2), self._stack.pop()]),
            "SETITEMS": lambda _: self._set_items(self._pop_mark()),
        }

    def run(self, stream: IO[bytes]) -> Any:
        """Work off one pickle and return what it leaves on the stack."""
        start = stream.tell()
        for opcode, argument, position in pickletools.genops(stream):
            before, self._position = self._position, (position or 0) - start
            if self._position - before > _LONG_TEXT:  # the instruction before this one
                self._long += self._position - before
            if self._position - self._long > MAX_BYTES:
                raise ValueError(f"a pickle of more than {MAX_BYTES >> 20} MB")
            name = opcode.name
            if name in _LITERALS:
                if type(argument) is int and argument.bit_length() > _MAX_BITS:
                    raise ValueError("a number of hundreds of digits")
                self._push(argument)
            elif name in _CONSTANTS:
                self._push(_CONSTANTS[name])
            elif name in _PYTHON2_TEXTS:
                self._push(_python2_text(str(argument)))
            elif name in self._actions:
                self._actions[name](argument)
            elif name not in _IGNORED:
                raise ValueError(f"the opcode {name} has no place in a file")
        return self._stack.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        dotted = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if dotted in self._names:
            entry = self._names[dotted]
            self._push(Name(dotted, entry.build) if isinstance(entry, Builder) else entry)
            return
        if not (self._inert and is_inert(dotted)):
            self._refuse(dotted)
        self._push(Name(dotted, None))

    def _refuse(self, dotted: str) -> None:
        """Remember a name. The machine goes on with a stand-in, to find the others for the message."""
        if len(self.refused) < _MAX_NAMES:
            self.refused[printable(dotted)] = None

    def _stack_global(self, _: Any) -> None:
        name = self._stack.pop()
        self._push_name(self._stack.pop(), name)

    def _extension(self, argument: Any) -> None:
        dotted = f"copyreg.extension_{argument}"
        self._refuse(dotted)
        self._push(Name(dotted, None))

    def _call(self, target: Any, arguments: Any, keywords: Any = None) -> Any:
        if type(target) is not Name or type(arguments) is not tuple:
            raise ValueError(f"it calls a {type(target).__name__}")
        if target.build is None:
            return Inert(target.dotted)
        if keywords:
            raise ValueError(f"keywords for {target.dotted}")
        self._count(arguments)
        return target.build(*arguments)

    def _count(self, arguments: tuple[Any, ...]) -> None:
        # Every item was once written out, and what is a text first and bytes then is given twice, so builders never
        # get more than twice the bytes read so far; a pickle that hands the same long list to many calls would
        # otherwise grow without limit.
        self._copied += sum(len(item) for item in arguments if isinstance(item, Sized))
        if self._copied > 2 * self._position:
            raise ValueError("it copies one piece of data again and again")

    def _reduce(self, _: Any) -> None:
        arguments = self._stack.pop()
        self._push(self._call(self._stack.pop(), arguments))

    def _newobj_ex(self, _: Any) -> None:
        keywords, arguments = self._stack.pop(), self._stack.pop()
        self._push(self._call(self._stack.pop(), arguments, keywords))

    def _obj(self, _: Any) -> None:
        target, *arguments = self._pop_mark()
        self._push(self._call(target, tuple(arguments)))

    def _inst(self, argument: Any) -> None:
        arguments = tuple(self._pop_mark())
        self._push_name(*str(argument).partition(" ")[::2])
        self._push(self._call(self._stack.pop(), arguments))

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Stateful):
            self._count(state if type(state) is tuple else (state,))
            target.set_state(state)
        # Neither's state matters (an OrderedDict of tensors carries its versions there).
        elif type(target) not in (Inert, OrderedDict):
            raise ValueError(f"it sets the state of a {type(target).__name__}")

    def _persistent_id(self, identity: Any) -> None:
        if self._persistent is None:
            raise ValueError("a reference to data outside the pickle")
        self._push(self._persistent(identity))

    def _mark(self, _: Any) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _put(self, index: Any) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, index: Any) -> None:
        self._push(self._memo[index])

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise ValueError("a tuple of more than there is")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _dict(self, _: Any) -> None:
        items = self._pop_mark()
        self._push({})
        self._set_items(items)

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Inert:
            raise ValueError(f"it appends to a {type(target).__name__}")

    def _add_items(self, _: Any) -> None:
        items, target = self._pop_mark(), self._stack[-1]
        if type(target) is set:
            target.update(map(_key, items))
        elif type(target) is not Inert:
            raise ValueError(f"it adds to a {type(target).__name__}")

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) in (dict, OrderedDict):
            target.update(
                (_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)
            )
        elif type(target) is not Inert:
            raise ValueError(f"it sets items of a {type(target).__name__}")
