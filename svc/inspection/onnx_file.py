"""An ONNX graph's outline, read without the onnx package and without its weights.

The file is a protobuf message: fields of a number, a wire type and a value, nested. Here the few
fields of onnx.proto3 that tell what a graph is are walked in the mapped file; weights are skipped.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_MAX_TEXT = 4096  # bytes of a name or a value
_MAX_DEPTH = 16  # graphs within graphs
_MAX_ITEMS = 1 << 20  # fields of one message

_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    8: "string", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip
_EXTERNAL = 1  # data_location of a tensor that lies in another file

Span = tuple[int, int]


class NoGraphError(ValueError):
    """A sound message of another kind."""


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    type: str
    shape: tuple[int | str, ...]
    """A text names an axis of any length; "?" is one without a name."""

    def __str__(self) -> str:
        return f"{self.name} {self.type} [{', '.join(map(str, self.shape))}]"


@dataclass
class OnnxOutline:
    """What a graph says about itself."""

    ir_version: int = 0
    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    """Version by domain; the standard operators are ""."""
    metadata: dict[str, str] = field(default_factory=dict)
    name: str = ""
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    """How often each is used, with its domain unless that is the standard one."""
    weights: Counter[str] = field(default_factory=Counter)
    """Numbers by type."""
    other_files: list[str] = field(default_factory=list)
    """Files in which it keeps weights, as it names them."""


def read_outline(path: Path) -> OnnxOutline:
    """Read the outline of a graph.

    Args:
        path: the file.

    Returns:
        The outline. Inputs that are weights with a default are left out.

    Raises:
        NoGraphError: it is no graph, though it may be a message of the same format.
        ValueError, OSError: truncated or damaged.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with content:
            try:
                return _Reader(content).model()
            except (IndexError, UnicodeDecodeError, OverflowError) as error:
                raise ValueError("the file ends inside a message") from error


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._outline = OnnxOutline()

    def model(self) -> OnnxOutline:
        """Walk the whole file."""
        outline, graphs = self._outline, 0
        for number, value in self._fields((0, len(self._content))):
            if number == 1 and isinstance(value, int):
                outline.ir_version = value
            elif number == 2:
                outline.producer = self._text(value)
            elif number == 7 and isinstance(value, tuple):
                graphs += 1
                self._graph(value, 0)
            elif number == 8 and isinstance(value, tuple):
                opset = dict(self._fields(value))
                version = opset.get(2, 0)
                domain = self._text(opset[1]) if 1 in opset else ""
                outline.opsets[domain] = version if isinstance(version, int) else 0
            elif number == 14 and isinstance(value, tuple):
                pair = dict(self._fields(value))
                outline.metadata[self._text(pair.get(1))] = self._text(pair.get(2))
            elif number == 25 and isinstance(value, tuple):
                self._nodes(value, 7, 0)
        if graphs != 1 or not outline.opsets:
            raise NoGraphError("it has no graph")
        return outline

    def _graph(self, span: Span, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("graphs nested without end")
        outline, inputs, weights = self._outline, [], set()
        for number, value in self._fields(span):
            if not isinstance(value, tuple):
                continue
            if number == 2 and not depth:
                outline.name = self._text(value)
            elif number == 5:
                weights.add(self._tensor(value))
            elif number == 15:
                weights.add(self._sparse(value))
            elif number == 11 and not depth:
                inputs.append(self._port(value))
            elif number == 12 and not depth:
                outline.outputs.append(self._port(value))
        outline.inputs += [port for port in inputs if port.name not in weights]
        self._nodes(span, 1, depth)

    def _nodes(self, span: Span, wanted: int, depth: int) -> None:
        for number, value in self._fields(span):
            if number != wanted or not isinstance(value, tuple):
                continue
            operator = domain = ""
            for part, content in self._fields(value):
                if part == 4:
                    operator = self._text(content)
                elif part == 7:
                    domain = self._text(content)
                elif part == 5 and isinstance(content, tuple):
                    self._attribute(content, depth)
            plain = domain in ("", "ai.onnx")
            self._outline.operators[operator if plain else f"{domain}.{operator}"] += 1

    def _attribute(self, span: Span, depth: int) -> None:
        for number, value in self._fields(span):
            if not isinstance(value, tuple):
                continue
            if number in (5, 10):
                self._tensor(value)
            elif number in (22, 23):
                self._sparse(value)
            elif number in (6, 11):
                self._graph(value, depth + 1)

    def _sparse(self, span: Span) -> str:
        """Count the values of a sparse tensor, and where they are; return its name."""
        parts = [part for _, part in self._fields(span) if isinstance(part, tuple)]
        return [*map(self._tensor, parts), ""][0]

    def _tensor(self, span: Span) -> str:
        """Count a tensor; return its name."""
        name, kind, count, location, place = "", 0, 1, 0, ""
        for number, value in self._fields(span):
            if number == 1:
                for length in [value] if isinstance(value, int) else self._varints(value):
                    count *= length
            elif number == 2 and isinstance(value, int):
                kind = value
            elif number == 8:
                name = self._text(value)
            elif number == 14 and isinstance(value, int):
                location = value
            elif number == 13 and isinstance(value, tuple):
                pair = dict(self._fields(value))
                if self._text(pair.get(1)) == "location":
                    place = self._text(pair.get(2))
        self._outline.weights[_TYPES.get(kind, f"type {kind}")] += count
        if (location == _EXTERNAL or place) and place not in self._outline.other_files:
            self._outline.other_files.append(place)
        return name

    def _port(self, span: Span) -> Port:
        value = dict(self._fields(span))
        name = self._text(value.get(1))
        kind = value.get(2)
        tensor = dict(self._fields(kind)).get(1) if isinstance(kind, tuple) else None
        if not isinstance(tensor, tuple):
            return Port(name, "no tensor", ())
        facts = dict(self._fields(tensor))
        code, shape = facts.get(1, 0), facts.get(2)
        axes: list[int | str] = []
        for number, axis in self._fields(shape) if isinstance(shape, tuple) else ():
            if number == 1 and isinstance(axis, tuple):
                length = dict(self._fields(axis))
                size = length.get(1)
                axes.append(size if isinstance(size, int) else self._text(length.get(2)) or "?")
        return Port(name, _TYPES.get(code if isinstance(code, int) else 0, "?"), tuple(axes))

    def _fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """Yield (number, whole number or place of the bytes) of each field of a message."""
        position, end = span
        for _ in range(_MAX_ITEMS):
            if position == end:
                return
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            if not number:
                raise ValueError("a field without number")
            if wire == 0:
                value, position = self._varint(position, end)
                yield number, value
                continue
            if wire == 2:
                length, position = self._varint(position, end)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError("a field of an unknown wire type")
            if position + length > end:
                raise ValueError("the file ends inside a message")
            yield number, (position, position + length)
            position += length
        raise ValueError("a message without end")

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise ValueError("the file ends inside a number")
            byte = self._content[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
        raise ValueError("a number without end")

    def _varints(self, span: Span) -> list[int]:
        position, values = span[0], []
        while position < span[1]:
            value, position = self._varint(position, span[1])
            values.append(value)
        return values

    def _text(self, span: int | Span | None) -> str:
        if not isinstance(span, tuple):
            return ""
        return self._content[span[0] : min(span[1], span[0] + _MAX_TEXT)].decode("utf-8", "replace")
