"""The pickle machine: it reads what Python's own reads, and has no power to do anything else."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import itertools
import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any

import pytest

from svc.safe_pickle import (
    MAX_BYTES,
    Builder,
    Inert,
    RefusedError,
    Stateful,
    UnsupportedError,
    printable,
    read_pickle,
)


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def read(program: bytes, names: dict[str, object] | None = None, **options: Any) -> Any:
    return read_pickle(io.BytesIO(program), names or {}, **options)


PLAIN: list[Any] = [
    None, True, False, 0, 255, 65536, -1, 1 << 40, -(1 << 70), 1 << 1000, 1.5, float("inf"), "", "héßen 声", "\ud800",
    b"", b"\x00\xff" * 200, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1, [2, [3]]], {}, {"a": {"b": 1}, 2: "c"},
    {(1, "x"): None, None: b"k"}, collections.OrderedDict(b=1, a=2), collections.Counter("aab"),
    collections.defaultdict(list, {"k": [1]}), {1, 2}, 3 + 4j, "x" * 300, list(range(2000)),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:30].replace("\ud800", "?"))
def test_reads_what_pickle_writes(value: Any, protocol: int) -> None:
    names: dict[str, object] = {"builtins.list": Builder(list)}  # defaultdict's factory
    assert read(pickle.dumps(value, protocol), names) == value


@pytest.mark.parametrize("protocol", [0, 1])
def test_reads_the_text_protocols(protocol: int) -> None:
    value = {"a": [1, 2.5, None, True, -7], "b": ("x", "y\n"), 3: "é"}
    assert read(pickle.dumps(value, protocol)) == value


def test_sharing_and_cycles_stay() -> None:
    inner: list[Any] = [1]
    inner.append(inner)
    loaded = read(pickle.dumps({"a": inner, "b": inner}))
    assert loaded["a"] is loaded["b"] is loaded["a"][1]


def test_texts_of_python_2() -> None:
    assert read(b"\x80\x02U\x03abc.") == "abc"
    assert read(b"\x80\x02U\x02\xc3\xa9.") == "é"
    assert read(b"\x80\x02U\x02\xff\xfe.") == b"\xff\xfe"
    assert read(b"\x80\x02c__builtin__\nset\n]K\x01a\x85R.") == {1}


def test_the_stream_stands_behind_the_pickle() -> None:
    stream = io.BytesIO(pickle.dumps([1]) + pickle.dumps([2]) + b"rest")
    assert (read_pickle(stream, {}), read_pickle(stream, {}), stream.read()) == ([1], [2], b"rest")


def test_bookkeeping_classes_become_inert() -> None:
    value = {"args": argparse.Namespace(a=[1], b={"c": 2}), "last": 3}
    with pytest.raises(RefusedError) as caught:
        read(pickle.dumps(value))
    assert caught.value.names == ["argparse.Namespace"]
    loaded = read(pickle.dumps(value), inert=True)
    assert type(loaded["args"]) is Inert
    assert (loaded["args"].name, loaded["last"]) == ("argparse.Namespace", 3)
    # every way to fill an object
    program = b"\x80\x04" + name("fairseq.x", "Y") + b")\x81" + text("i") + b"a" + b"(K\x01K\x02e"
    program += text("k") + b"K\x03s" + b"(K\x04K\x05u" + b"(K\x01\x90" + b"}b."
    assert type(read(program, inert=True)) is Inert


def test_a_name_outside_the_table_is_refused_whatever_it_is() -> None:
    for value in (os.system, datetime.date(2020, 1, 1), print, Builder):
        for protocol in range(6):
            with pytest.raises(RefusedError):
                read(pickle.dumps(value, protocol), inert=True)


def test_all_names_are_listed_in_the_order_of_the_file() -> None:
    program = name("os", "system") + name("b", "c.d") + name("os", "system") + b"."
    with pytest.raises(RefusedError) as caught:
        read(program)
    assert caught.value.names == ["os.system", "b.c.d"]
    assert "os.system, b.c.d" in str(caught.value)


def test_a_refused_name_explains_more_than_the_damage_after_it() -> None:
    for rest in (b"", b"h\x07.", b"R.", b"\xff", b"(", b"J\x00"):
        with pytest.raises(RefusedError, match=r"os\.system"):
            read(name("os", "system") + rest)


def test_the_name_on_the_stack_counts_not_the_text_last_seen() -> None:
    """A scan that takes the two texts before STACK_GLOBAL sees collections.OrderedDict here."""
    fetch = b"h\x00h\x01" + text("collections") + b"0" + text("OrderedDict") + b"0\x93"
    program = b"\x80\x04" + text("os") + b"q\x000" + text("system") + b"q\x010" + fetch + b"."
    with pytest.raises(RefusedError, match=r"os\.system"):
        read(program)
    # the memo is overwritten, filled out of order, and fetched through a copy
    program = b"\x80\x04" + text("OrderedDict") + b"q\x05" + text("system") + b"q\x05" + text("os")
    program += b"2q\x050" + b"\x94h\x05" + text("system") + b"\x93."
    with pytest.raises(RefusedError, match=r"os\.system"):
        read(program)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"K\x01K\x02\x93.", "a name that is no text"),
        (text("os") + b"C\x06system\x93.", "a name that is no text"),
        (text("os") + name("_codecs", "encode") + text("system") + text("latin1") + b"\x86R\x93.", "a name that is no"),
        (text("os") + text("system") + b"\x86K\x01\x93.", "a name that is no text"),
        (b"K\x01)R.", "it calls a int"),
        (text("os.system") + b"K\x01\x85R.", "it calls a str"),
        (name("collections", "OrderedDict") + b"]R.", "it calls a Name"),
        (name("collections", "OrderedDict") + b")RK\x01\x85R.", "it calls a OrderedDict"),
        (name("fairseq.a", "B") + b")\x81)R.", "it calls a Inert"),
        (name("fairseq.a", "B") + b"N}" + text("build") + b"Ns\x86b.", "it sets the state of a Name"),
        (name("collections", "OrderedDict") + b"}" + text("build") + b"Nsb.", "it sets the state of a Name"),
        (b"}}b.", "it sets the state of a dict"),
        (b"]}" + text("append") + b"Nsb.", "it sets the state of a list"),
        (b"}K\x01a.", "it appends to a dict"),
        (b"]K\x01K\x02s.", "it sets items of a list"),
        (b"]\x94h\x00K\x01\x90", "damaged"),
        (b"}]K\x01s.", "a list as a key"),
        (b"})\x85K\x01s.", "a tuple as a key"),
        (b"}(K\x01u.", "damaged"),
        (name("collections", "OrderedDict") + b"](]K\x01ea\x85R.", "damaged"),
        (name("_codecs", "encode") + text("x") + text("rot13") + b"\x86R.", "other than latin1"),
        (name("_codecs", "encode") + text("x") + b"\x85R.", "other than latin1"),
        (b"Pid\n.", "a reference to data outside"),
        (b"K\x01Q.", "a reference to data outside"),
        (b"\x97.", "NEXT_BUFFER has no place"),
        (b"K\x01\x98.", "READONLY_BUFFER has no place"),
        (b".", "damaged"),
        (b"0.", "damaged"),
        (b"R.", "damaged"),
        (b"t.", "damaged"),
        (b"\x86.", "a tuple of more than there is"),
        (b"h\x09.", "damaged"),
        (b"", "damaged"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f", "damaged"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.", "damaged"),
        (b"X\xff\xff\xff\xffx.", "damaged"),
        (b"L" + b"9" * 9999 + b"L\n.", "damaged"),
        (b"\x8b\x00\x04\x00\x00" + b"\x77" * 1024 + b".", "a number of hundreds of digits"),
    ],
)  # fmt: skip
def test_damage_and_tricks_are_value_errors(program: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        read(program, inert=True)
    assert not isinstance(caught.value, RefusedError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [b"\x82\x07", b"\x83\x07\x00", b"\x84\x07\x00\x00\x00"])
def test_extension_codes_are_refused(code: bytes) -> None:
    with pytest.raises(RefusedError, match=r"copyreg\.extension_7"):
        read(b"\x80\x02" + code + b")R.")


def test_builders_get_data_only_and_data_cannot_be_called() -> None:
    seen: list[Any] = []
    names: dict[str, object] = {"a.b": Builder(lambda *items: seen.append(items)), "a.c": seen}
    read(name("a", "b") + b"K\x01K\x02\x86R.", names)
    read(b"(" + name("a", "b") + b"K\x03o.", names)
    read(b"(K\x04ia\nb\n.", names)
    read(name("a", "b") + b"K\x05\x85}\x92.", names)
    assert seen == [(1, 2), (3,), (4,), (5,)]
    assert read(name("a", "c") + b".", names) is seen
    with pytest.raises(ValueError, match="it calls a list"):
        read(name("a", "c") + b")R.", names)
    with pytest.raises(ValueError, match=r"keywords for a\.b"):
        read(name("a", "b") + b")}" + text("x") + b"Ns\x92.", names)


def test_errors_of_builders() -> None:
    def fails(error: Exception) -> Callable[[], None]:
        def build() -> None:
            raise error

        return build

    program = name("a", "b") + b")R."
    with pytest.raises(UnsupportedError, match="sparse"):
        read(program, {"a.b": Builder(fails(UnsupportedError("sparse")))})
    with pytest.raises(ValueError, match="damaged pickle: odd"):
        read(program, {"a.b": Builder(fails(TypeError("odd")))})
    with pytest.raises(RefusedError, match=r"os\.system"):
        read(name("os", "system") + program, {"a.b": Builder(fails(UnsupportedError("sparse")))})


def test_persistent_ids_go_to_the_caller() -> None:
    seen: list[Any] = []
    assert read(b"K\x01Q.", persistent=lambda identity: seen.append(identity) or 7) == 7
    assert read(b"Pabc\n.", persistent=lambda identity: seen.append(identity) or 8) == 8
    assert seen == [1, "abc"]


def test_a_small_file_cannot_fill_the_memory() -> None:
    """One long list, copied by every call; the real reader of pickles would make 50 GB of it."""
    items = b"](" + b"K\x01" * 100_000 + b"eq\x00"
    call = name("builtins", "set") + b"h\x00\x85R0"
    assert len(read(items + call[:-1] + b".")) == 1
    with pytest.raises(ValueError, match="again and again"):
        read(items + call * 5000 + b"N.")


def test_a_pickle_has_a_longest_length() -> None:
    with pytest.raises(ValueError, match="more than 32 MB"):
        read(b"N0" * (MAX_BYTES // 2) + b"N0N.")


def test_the_data_of_arrays_does_not_count_as_length() -> None:
    """Neither as bytes nor as text; instructions around it do."""
    data = b"B" + struct.pack("<I", MAX_BYTES) + bytes(MAX_BYTES) + b"0"
    assert read(data + text("é" * (MAX_BYTES // 2)) + b"0N.") is None
    rest = (b"C\xff" + bytes(255) + b"0") * (MAX_BYTES // 258 + 1)
    with pytest.raises(ValueError, match="more than 32 MB"):
        read(data + rest + b"N.")


class Kept(Stateful):
    """What a builder makes: it keeps the state it is given."""

    state: Any = None

    def set_state(self, state: Any) -> None:
        if state == "odd":
            raise UnsupportedError("an odd state")
        self.state = state


def test_only_what_a_builder_made_for_it_gets_a_state() -> None:
    names: dict[str, object] = {"a.b": Builder(Kept), "a.c": Builder(list)}
    made = name("a", "b") + b")R"
    assert read(made + b"(K\x01K\x02tb.", names).state == (1, 2)
    assert read(made + b"K\x01bK\x02b.", names).state == 2
    with pytest.raises(UnsupportedError, match="an odd state"):
        read(made + text("odd") + b"b.", names)
    for other in (name("a", "c") + b")R", name("a", "b"), b"K\x01", b"}"):
        with pytest.raises(ValueError, match="it sets the state of a"):
            read(other + b"K\x01b.", names)


def test_one_piece_of_data_is_no_state_of_thousands() -> None:
    names: dict[str, object] = {"a.b": Builder(Kept)}
    data = b"B" + struct.pack("<I", 100_000) + bytes(100_000) + b"q\x000"
    fill = name("a", "b") + b")Rh\x00b0"
    assert read(data + fill + b"N.", names) is None
    with pytest.raises(ValueError, match="again and again"):
        read(data + 5 * fill + b"N.", names)
    with pytest.raises(ValueError, match="again and again"):
        read(data + 5 * fill.replace(b"h\x00", b"h\x00K\x01\x86") + b"N.", names)


def test_deep_nesting_is_no_crash() -> None:
    depth = 100_000
    deep = read(b")" + b"\x85" * depth + b".")
    assert type(deep) is tuple
    assert type(read(b"]" * depth + b"a" * (depth - 1) + b".")) is list
    with pytest.raises(ValueError, match="as a key"):
        read(b"})" + b"\x85" * depth + b"Ns.")


def test_every_opcode_is_known_or_refused() -> None:
    """A random walk over all opcodes ends in a value, a refusal or a ValueError; nothing else."""
    outcomes = collections.Counter[str]()
    for first, second in itertools.product(pickletools.opcodes, repeat=2):
        program = b"".join(
            [
                b"\x80\x04K\x01\x94" + text("os") + b"\x94(" + text("os") + text("system"),
                first.code.encode("latin-1") + b"\x01\x00",
                second.code.encode("latin-1") + b"\x01\x00\n1\n.",
            ]
        )
        try:
            read(program, inert=True)
            outcomes["value"] += 1
        except RefusedError:
            outcomes["refused"] += 1
        except ValueError:
            outcomes["damaged"] += 1
    assert all(outcomes[kind] > 20 for kind in ("value", "refused", "damaged")), outcomes


def test_printable() -> None:
    assert printable("model.weight 声") == "model.weight 声"
    assert printable("a\x1b[2Jb\nc\u202e") == r"a\x1b[2Jb\nc\u202e"
    assert printable("\ud800") == r"\ud800"
    assert printable("x" * 1000) == "x" * 200 + "..."
    with pytest.raises(RefusedError) as caught:
        read(b"\x80\x04" + text("o\x1b[2Js") + text("sy\nstem") + b"\x93.")
    assert caught.value.names == [r"o\x1b[2Js.sy\nstem"]
