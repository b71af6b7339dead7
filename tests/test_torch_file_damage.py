"""Files of torch's two containers that torch did not write: odd, damaged, hostile."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.safe_pickle import RefusedError, UnsupportedError
from svc.torch_file import read_torch_file


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_other_kinds_of_files_are_named(tmp_path: Path) -> None:
    path, entries = tmp_path / "b.pt", plain_entries(tmp_path)
    program = {"a/code/__torch__.py": b"class Net: ...", "a/constants.pkl": b"\x80\x02)."}
    write_zip(path, entries | program, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedError, match="TorchScript"):
        read_torch_file(path)
    path.write_bytes(bytes(257) + b"ustar" + bytes(1000))
    with pytest.raises(UnsupportedError, match="tar format"):
        read_torch_file(path)
    path.write_bytes(pickle.dumps({"model": [1, 2]}))
    with pytest.raises(ValueError, match=r"no file of torch\.save"):
        read_torch_file(path)


def test_the_other_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "big.pt"
    value = {"a": torch.arange(5.0), "b": torch.tensor([1 + 2j]), "c": torch.tensor([1, 2]).short()}
    torch.save(value, path)
    swapped = {"a": 4, "b": 4, "c": 2}
    entries = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            entries[name] = archive.read(name)
    for index, key in enumerate(swapped):
        raw = entries[f"big/data/{index}"]
        words = [raw[i : i + swapped[key]][::-1] for i in range(0, len(raw), swapped[key])]
        entries[f"big/data/{index}"] = b"".join(words)
    entries["big/byteorder"] = b"big"
    write_zip(path, entries)
    for mapped in (False, True):
        assert same(read_torch_file(path, mapped=mapped), value)
    write_zip(path, entries | {"big/byteorder": b"middle"})
    with pytest.raises(ValueError, match="byte order"):
        read_torch_file(path)


def write_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def plain_entries(tmp_path: Path) -> dict[str, bytes]:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.arange(1000.0)}, path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


HOSTILE = b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85R."


def test_zip_files_that_torch_does_not_write(tmp_path: Path) -> None:
    path, entries = tmp_path / "b.pt", plain_entries(tmp_path)
    write_zip(path, entries)
    assert read_torch_file(path)["w"][5] == 5
    for extra in ("b/data.pkl", "a/other.pkl", "a/data/data.pkl", ".pkl"):
        for order in (entries | {extra: HOSTILE}, {extra: HOSTILE} | entries):
            write_zip(path, order)
            with pytest.raises(ValueError, match="2 pickles where"):
                read_torch_file(path)
    write_zip(path, entries, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="a zip record that"):
        read_torch_file(path)
    write_zip(path, {("b" * (name == "a/data/0") + name): c for name, c in entries.items()})
    with pytest.raises(ValueError, match="a tensor without its data"):
        read_torch_file(path)
    write_zip(path, entries | {"a/data/0": bytes(3999), "a/padding": bytes(1000)})
    with pytest.raises(ValueError, match="a tensor without its data"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", entries["a/data.pkl"])
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/data.pkl", HOSTILE)
    with pytest.raises(ValueError, match="there twice"):
        read_torch_file(path)


def test_what_lies_behind_the_pickle_is_never_read(tmp_path: Path) -> None:
    path, entries = tmp_path / "b.pt", plain_entries(tmp_path)
    write_zip(path, entries | {"a/data.pkl": entries["a/data.pkl"] + HOSTILE})
    assert read_torch_file(path)["w"][5] == 5
    write_zip(path, entries | {"a/data.pkl": HOSTILE + entries["a/data.pkl"]})
    with pytest.raises(RefusedError, match=r"os\.system"):
        read_torch_file(path)


def test_a_zip_behind_a_stream_is_not_looked_at(tmp_path: Path) -> None:
    """Python's zipfile finds an archive at the end of any file; the first bytes decide here."""
    path, entries = tmp_path / "b.pt", plain_entries(tmp_path)
    write_zip(path, entries | {"a/data.pkl": HOSTILE})
    archive = path.read_bytes()
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + archive)
    assert zipfile.is_zipfile(path)
    assert read_torch_file(path)["w"].tolist() == [1, 1, 1]


def stream_parts(value: Any, path: Path) -> list[bytes]:
    """The five pickles of a stream file, and its data."""
    torch.save(value, path, _use_new_zipfile_serialization=False)
    parts, content = [], path.read_bytes()
    with path.open("rb") as stream:
        for _ in range(5):
            start = stream.tell()
            if len(parts) == 3:
                for _ in pickletools.genops(stream):
                    pass
            else:
                pickle.load(stream)
            parts.append(content[start : stream.tell()])
        return [*parts, content[stream.tell() :]]


@pytest.mark.parametrize("place", range(5))
def test_a_hostile_pickle_anywhere_in_a_stream(tmp_path: Path, place: int) -> None:
    path = tmp_path / "s.pt"
    parts = stream_parts({"w": torch.ones(3)}, path)
    parts[place] = HOSTILE
    path.write_bytes(b"".join(parts))
    with pytest.raises(RefusedError, match=r"os\.system"):
        read_torch_file(path)


def test_streams_that_torch_does_not_write(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    parts = stream_parts({"w": torch.arange(3.0)}, path)
    key = pickle.loads(parts[4])[0]

    def reason(**changes: bytes) -> str:
        changed = [changes.get(f"p{i}", part) for i, part in enumerate(parts)]
        path.write_bytes(b"".join(changed))
        with pytest.raises(ValueError, match=r".+") as caught:
            read_torch_file(path)
        return str(caught.value)

    dump = lambda value: pickle.dumps(value, 2)  # noqa: E731
    size = struct.pack("<q", 3)
    assert "no file of torch.save" in reason(p0=dump(17))
    assert "unknown version" in reason(p1=dump(1002))
    assert "system info" in reason(p2=dump([]))
    assert "list of storages" in reason(p4=dump({key: 1}))
    assert "list of storages" in reason(p4=dump([key, key]))
    assert "data of no tensor" in reason(p4=dump([key, "9"]))
    assert "without its data" in reason(p4=dump([]))
    assert "ends inside" in reason(p5=parts[5][:-1])
    assert "another length" in reason(p5=struct.pack("<q", 4) + bytes(16))
    assert "another length" in reason(p5=struct.pack("<q", -3) + bytes(16))
    assert "another length" in reason(p5=b"")
    path.write_bytes(b"".join([*parts[:5], size, parts[5][8:], b"anything behind"]))
    assert read_torch_file(path)["w"].tolist() == [0, 1, 2]


def test_views_of_storages_as_early_versions_wrote_them(tmp_path: Path) -> None:
    """(view key, first element, elements) behind the storage's own entries."""
    path = tmp_path / "s.pt"
    parts = stream_parts([], path)
    key = b"X\x01\x00\x00\x00k"

    def tensor(view: bytes, offset: int, length: int, view_key: bytes = b"v") -> bytes:
        storage = (
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + key + b"X\x03\x00\x00\x00cpuK\x06"
        )
        sizes = b"K%cK%c\x85K\x01\x85" % (offset, length)
        return b"ctorch._utils\n_rebuild_tensor\n(" + storage + view + b"tQ" + sizes + b"tR"

    def view(first: int, count: int) -> bytes:
        return b"U\x01vK%cK%c\x87" % (first, count)

    data = struct.pack("<q6f", 6, *range(6))
    keys = b"\x80\x02]" + key + b"a."
    program = b"\x80\x02](" + tensor(view(2, 3), 1, 2) + tensor(b"N", 0, 6) + b"e."
    path.write_bytes(b"".join([*parts[:3], program, keys, data]))
    loaded = read_torch_file(path)
    assert [tensor.tolist() for tensor in loaded] == [[3, 4], [0, 1, 2, 3, 4, 5]]
    loaded[1][3] = 9
    assert loaded[0][0] == 9
    theirs = torch.load(path, weights_only=True)
    assert [tensor.tolist() for tensor in theirs] == [[3, 4], [0, 1, 2, 3, 4, 5]]
    for bad, words in (
        (view(4, 3), "view beyond"),
        (b"K\x01", "damaged"),
        (b"U\x01vNK\x01\x87", "odd view"),
    ):
        program = b"\x80\x02](" + tensor(bad, 0, 1) + b"e."
        path.write_bytes(b"".join([*parts[:3], program, keys, data]))
        with pytest.raises(ValueError, match=words):
            read_torch_file(path)
    program = b"\x80\x02](" + tensor(view(2, 3), 2, 2) + b"e."
    path.write_bytes(b"".join([*parts[:3], program, keys, data]))
    with pytest.raises(ValueError, match="beyond its storage"):
        read_torch_file(path)


def test_nesting_without_end_is_an_error(tmp_path: Path) -> None:
    path, entries = tmp_path / "b.pt", plain_entries(tmp_path)
    for program in (b"]" * 50_000 + b"a" * 49_999, b")" + b"\x85" * 50_000):
        write_zip(path, entries | {"a/data.pkl": b"\x80\x02" + program + b"."})
        with pytest.raises(ValueError, match="cannot be made"):
            read_torch_file(path)
    write_zip(path, entries | {"a/data.pkl": b"\x80\x02]q\x00h\x00a."})
    loaded = read_torch_file(path)
    assert loaded[0] is loaded
    doubling = b"".join(b"h%cq%c0h%ch%c\x86q%c0" % (i, i, i, i, i + 1) for i in range(60))
    write_zip(path, entries | {"a/data.pkl": b"\x80\x02)q\x000" + doubling + b"h\x3c."})
    assert len(read_torch_file(path)) == 2  # 2^60 leaves, of which each is visited once


def test_nothing_of_the_file_is_imported(tmp_path: Path) -> None:
    """In a fresh process: the module a file names lies on the path, and stays unknown."""
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')")
    path, entries = tmp_path / "b.pt", plain_entries(tmp_path)
    write_zip(path, entries | {"a/data.pkl": b"\x80\x02ctrap_module\nrun\n)R."})
    code = (
        "import sys; from pathlib import Path; from svc.torch_file import read_torch_file\n"
        "try: read_torch_file(Path(sys.argv[1]), inert=True)\n"
        "except ValueError as error: print(error)\n"
        "assert 'trap_module' not in sys.modules"
    )
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{root}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == "it asks for trap_module.run"
