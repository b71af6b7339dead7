"""Every loader of the encoders is fed pickles that would run something, and nothing runs.

Each attack is a piece of pickle that leaves one object on the stack. It is put into a sound file of each format, in
both containers, at each place where a reader might be careless. That nothing ran is seen three ways: the folder that an
attack makes is not there, its module was not imported, and Python's audit hook saw no process, no writing, no import,
and not one lookup of a class by Python's own unpickler. `test_the_attacks_work` shows that they do harm elsewhere.
"""

from __future__ import annotations

import codecs
import contextlib
import copyreg
import io
import json
import os
import pickle
import pickletools
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from svc.checkpoint import load_checkpoint, load_restricted, load_tensor
from svc.errors import CheckpointError
from svc.speech import build_speech_encoder
from svc.speech.base import ENCODER_NAMES
from svc.speech.wave_files import load_wave_net
from svc.speech.whisper import load_whisper

EXTENSION = 0xE7  # a code of the copyreg registry that is free
MARKER = "marker"  # what attacks make, in the folder the tests run in


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(dotted: str, *arguments: bytes) -> bytes:
    return name(dotted) + b"(" + b"".join(arguments) + b"tR"


MKDIR = text(f"mkdir {MARKER}")
CODE = text(f"__import__('os').mkdir('{MARKER}')")
ARGV = b"](" + text(sys.executable) + text("-c") + CODE + b"e"
IMPORTED = call("builtins.__import__", text("os"))
ATTACK = call("os.mkdir", text(MARKER))

# name: (pickle of one object, what the message must name)
ATTACKS: dict[str, tuple[bytes, str]] = {
    "os.system": (call("os.system", MKDIR), "os.system"),
    "posix.system": (call(f"{os.name}.system", MKDIR), f"{os.name}.system"),
    "Popen": (call("subprocess.Popen", ARGV), "subprocess.Popen"),
    "Popen by NEWOBJ": (name("subprocess.Popen") + ARGV + b"\x85\x81", "subprocess.Popen"),
    "Popen by NEWOBJ_EX": (
        name("subprocess.Popen") + b")}" + text("args") + ARGV + b"s\x92",
        "subprocess.Popen",
    ),
    "eval": (call("builtins.eval", CODE), "builtins.eval"),
    "exec of Python 2": (call("__builtin__.exec", CODE), "builtins.exec"),
    "open": (call("builtins.open", text(MARKER), text("w")), "builtins.open"),
    "getattr chain": (
        name("builtins.getattr") + b"(" + IMPORTED + text("mkdir") + b"tR" + text(MARKER) + b"\x85R",
        "builtins.getattr",
    ),
    "attrgetter on torch": (
        call("operator.attrgetter", text("serialization.os.mkdir"))
        + call("builtins.__import__", text("torch")) + b"\x85R" + text(MARKER) + b"\x85R",
        "operator.attrgetter",
    ),
    "methodcaller": (
        call("operator.methodcaller", text("mkdir"), text(MARKER)) + IMPORTED + b"\x85R",
        "operator.methodcaller",
    ),
    "partial": (call("functools.partial", name("os.mkdir"), text(MARKER)) + b")R", "functools.partial"),
    "nested reduce": (call("builtins.list", b"](" + ATTACK + b"Ne"), "os.mkdir"),
    "dotted name": (
        text("torch") + text("serialization.os.mkdir") + b"\x93" + text(MARKER) + b"\x85R",
        "torch.serialization.os.mkdir",
    ),
    "name from the memo": (
        text("os") + b"q\xf00" + text("mkdir") + b"q\xf10h\xf0h\xf1" + text("collections") + b"0"
        + text("OrderedDict") + b"0\x93" + text(MARKER) + b"\x85R",
        "os.mkdir",
    ),
    "name from an overwritten memo": (
        text("OrderedDict") + b"q\xf00" + text("mkdir") + b"q\xf00" + text("os") + b"h\xf0\x93"
        + text(MARKER) + b"\x85R",
        "os.mkdir",
    ),
    "OBJ": (b"(" + name("os.mkdir") + text(MARKER) + b"o", "os.mkdir"),
    "INST": (b"(" + text(MARKER) + b"ios\nmkdir\n", "os.mkdir"),
    "extension code": (b"\x82" + bytes([EXTENSION]) + text(MARKER) + b"\x85R", f"copyreg.extension_{EXTENSION}"),
    "setstate put in by BUILD": (
        name("fairseq.meters.Meter") + b")\x81}" + text("__setstate__") + name("os.mkdir") + b"sb"
        + text(MARKER) + b"b",
        "os.mkdir",
    ),
    "in an OrderedDict": (
        name("collections.OrderedDict") + b"]" + text("k") + ATTACK + b"\x86a\x85R", "os.mkdir",
    ),
    "in the state of a harmless class": (
        name("argparse.Namespace") + b")\x81}" + text("lr") + ATTACK + b"sb", "os.mkdir",
    ),
    "default of a dictionary": (
        call("collections.defaultdict", name("os.mkdir")), "os.mkdir",
    ),
    "module as persistent id": (
        b"(" + text("module") + name("os.mkdir") + text("a") + text("b") + b"tQ" + text(MARKER) + b"\x85R", "os.mkdir",
    ),
    "storage type": (
        b"(" + text("storage") + name("os.mkdir") + text("0") + text("cpu") + b"K\x01tQ", "os.mkdir",
    ),
    "name that ends in Storage": (name("torch.hub.osStorage"), "torch.hub.osStorage"),
    "torch in torch": (
        call("torch.storage._load_from_bytes", b"C\x20" + pickle.dumps(1).ljust(32)), "torch.storage._load_from_bytes",
    ),
    "torch.load": (call("torch.load", text("other.pt")), "torch.load"),
    "torch.hub": (call("torch.hub.load", text("a/b"), text("c")), "torch.hub.load"),
    "class of a tensor": (call("torch._tensor._rebuild_from_type_v2", name("os.mkdir"), b"NN}"), "os.mkdir"),
    "numpy file": (call("numpy.load", text("x.npy")), "numpy.load"),
    "numpy array": (call("numpy.core.multiarray.fromfile", text("x.bin")), "numpy.core.multiarray.fromfile"),
    "pickle in a pickle": (call("pickle.loads", b"C\x02N."), "pickle.loads"),
    "module of the file's own": (call("trap_module.run", b"K\x01"), "trap_module.run"),
    "whole model": (name("torch.nn.modules.linear.Linear") + b")\x81", "torch.nn.modules.linear.Linear"),
    "code object": (call("marshal.loads", b"C\x01N"), "marshal.loads"),
    "escape sequence": (text("os\x1b[2J\n") + text("mkdir") + b"\x93", r"os\x1b[2J\n.mkdir"),
}  # fmt: skip


def item(program: bytes, key: str, value: bytes) -> bytes:
    """Add an item to the dictionary that a pickle holds."""
    return program[:-1] + text(key) + value + b"s."


def as_hooks(program: bytes, attack: bytes) -> bytes:
    """In place of a tensor's backward hooks, which follow requires_grad=False in its arguments."""
    empty = rb"\x89(h.|ccollections\nOrderedDict\n(q.)?)\)R"
    changed, count = re.subn(empty, lambda _: b"\x89" + attack, program, count=1, flags=re.DOTALL)
    assert count == 1
    return changed


PLACES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "beside": lambda program, attack: item(program, "extra", attack),
    "in the config": lambda program, attack: item(
        program, "cfg", b"}" + text("model") + call("collections.OrderedDict") + text("x") + attack + b"ss"
    ),
    "in the optimizer": lambda program, attack: item(
        program, "last_optimizer_state", b"}" + text("state") + b"}K\x00](" + attack + b"ess"
    ),
    "in a harmless class": lambda program, attack: item(
        program, "x", name("fairseq.data.Dictionary") + b")\x81}" + text("symbols") + attack + b"sb"
    ),
    "as hooks": as_hooks,
    "instead": lambda program, attack: b"\x80\x02" + attack + b".",
}  # fmt: skip


def rewrite(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """Change the pickle that holds the object of a torch file; all else stays."""
    content = path.read_bytes()
    if content[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for entry, record in entries.items():
                archive.writestr(entry, edit(record) if entry.endswith("/data.pkl") else record)
        return path
    stream, ends = io.BytesIO(content), []
    for _ in range(4):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    program = edit(content[ends[2] : ends[3]])
    path.write_bytes(content[: ends[2]] + program + content[ends[3] :])
    return path


class Watch:
    """Hears of everything that Python does for which there is an audit event, while it is open."""

    harm = (
        "os.",
        "subprocess.",
        "pickle.",
        "shutil.",
        "socket.",
        "ctypes.",
        "marshal.",
        "code.",
        "import",
    )
    reading = ("os.listdir", "os.scandir")

    def __init__(self) -> None:
        self.is_open = False
        self.events: list[str] = []
        sys.addaudithook(self._hear)  # cannot be taken away again

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_open:
            return
        mode, flags = arguments[1:3] if event == "open" else ("", 0)
        writes = set(mode or "") & set("wax+") or (flags or 0) & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT
        )
        if writes or (event.startswith(self.harm) and event not in self.reading):
            self.events.append(f"{event} {arguments[:1]}")

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        self.events.clear()
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False


WATCH = Watch()
codecs.lookup("cp437")  # imported by Python for the names in a zip file


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The empty folder in which the test runs; a module that attacks name and a code for os.mkdir are at hand."""
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "trap_module.py").write_text(f"import os\ndef run(_): os.mkdir('{MARKER}')\nrun(0)")
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(tmp_path))
    copyreg.add_extension("os", "mkdir", EXTENSION)
    yield work
    copyreg.remove_extension("os", "mkdir", EXTENSION)


def refused(load: Callable[[Path], Any], path: Path, words: str | None) -> None:
    """Loading fails with one line that names the file and the callable, and does nothing but read."""
    with pytest.raises(CheckpointError) as caught, WATCH.open():
        load(path)
    assert WATCH.events == []
    assert not Path(MARKER).exists()
    assert "trap_module" not in sys.modules
    message = str(caught.value)
    assert message.isprintable(), "one line, nothing that a terminal would obey"
    assert path.name in message
    if words is not None:
        assert "refused: loading it would call " in message
        assert re.search(rf"(call|,) {re.escape(words)},", message), message


def plain_file(path: Path, zipped: bool) -> Path:
    tensors = {"w": torch.ones(3), "v": torch.zeros(2)}
    torch.save({"model": tensors}, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.usefixtures("trap")
def test_attacks_are_refused_by_name(tmp_path: Path, attack: str, place: str, zipped: bool) -> None:
    program, words = ATTACKS[attack]
    sound = plain_file(tmp_path / "a.pt", zipped)
    path = rewrite(sound, lambda whole: PLACES[place](whole, program))
    for load in (load_checkpoint, load_restricted, load_tensor):
        refused(load, path, words)


def whisper_file(path: Path, zipped: bool = True) -> Path:
    state = {"encoder.conv1.weight": torch.ones(4, 80, 3), "decoder.w": torch.ones(2)}
    content = {"dims": {"n_audio_head": 1}, "model_state_dict": state}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


WAVE_FILES = ["fairseq", "wavlm", "dphubert", "hubert_soft", "torchaudio", "hugging_face"]
SHORT = [
    "os.system", "getattr chain", "Popen by NEWOBJ", "nested reduce", "name from the memo", "class of a tensor",
]  # fmt: skip


@pytest.fixture
def weight_file(tmp_path: Path, make_wave_file: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that writes a sound file of a kind: `WAVE_FILES`, a Hugging Face folder, or Whisper."""

    def make(kind: str, zipped: bool = True) -> Path:
        if kind == "whisper":
            return whisper_file(tmp_path / "whisper.pt", zipped)
        if kind == "folder":
            folder = make_wave_file("hugging_face", path=tmp_path / "model")
            (folder / "model.safetensors").unlink()
            made = make_wave_file("hugging_face", path=folder / "pytorch_model.bin")
            assert made == folder / "pytorch_model.bin"
            return made
        where = tmp_path / f"{kind}.{'bin' if kind == 'hugging_face' else 'pt'}"
        return make_wave_file(kind, path=where, **({} if zipped else {"legacy": True}))

    return make


def loader_of(kind: str) -> Callable[[Path], Any]:
    return load_whisper if kind == "whisper" else load_wave_net


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [*WAVE_FILES, "folder", "whisper"])
def test_every_format_refuses_every_place(
    request: pytest.FixtureRequest, weight_file: Callable[..., Path], kind: str, place: str
) -> None:
    sound = weight_file(kind)
    content = sound.read_bytes()
    if kind != "whisper":
        loader_of(kind)(sound)  # sound before, and everything that a loader imports is there
    request.getfixturevalue("trap")
    for attack in SHORT:
        program, words = ATTACKS[attack]
        sound.write_bytes(content)
        path = rewrite(sound, lambda whole, x=program: PLACES[place](whole, x))
        refused(loader_of(kind), path, words)
        if kind == "folder":
            refused(lambda _, folder=path.parent: load_wave_net(folder), path, words)


@pytest.mark.parametrize("kind", ["fairseq", "wavlm", "dphubert", "hubert_soft", "whisper"])
def test_the_older_container(
    request: pytest.FixtureRequest, weight_file: Callable[..., Path], kind: str
) -> None:
    sound = weight_file(kind, zipped=False)
    assert sound.read_bytes()[:2] != b"PK"
    request.getfixturevalue("trap")
    refused(loader_of(kind), rewrite(sound, lambda whole: item(whole, "x", ATTACK)), "os.mkdir")


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_every_encoder_id(
    request: pytest.FixtureRequest, weight_file: Callable[..., Path], encoder: str, zipped: bool
) -> None:
    kind = "whisper" if "whisper" in encoder else "fairseq"
    path = rewrite(weight_file(kind, zipped), lambda whole: item(whole, "x", ATTACK))
    words: str | None = "os.mkdir"
    if encoder.endswith("-onnx"):
        pytest.importorskip("onnxruntime")
        words = None
        with pytest.raises(CheckpointError):
            build_speech_encoder(encoder, path=path)  # what its first use imports is not watched
    request.getfixturevalue("trap")
    refused(lambda file: build_speech_encoder(encoder, path=file), path, words)


WORKING = [
    "os.system", "Popen", "eval", "open", "getattr chain", "attrgetter on torch", "methodcaller", "partial",
    "nested reduce", "dotted name", "name from the memo", "OBJ", "INST", "extension code", "module of the file's own",
]  # fmt: skip


def test_the_attacks_work(tmp_path: Path) -> None:
    """Python's own unpickler, in a process of its own, falls for them; so the tests above mean something."""
    (tmp_path / "trap_module.py").write_text(f"import os\ndef run(_): os.mkdir('{MARKER}')")
    code = (
        "import copyreg, json, os, pickle, sys, torch\n"
        f"copyreg.add_extension('os', 'mkdir', {EXTENSION})\n"
        "for attack, program in json.load(sys.stdin).items():\n"
        "    os.mkdir(attack); os.chdir(attack)\n"
        "    value = pickle.loads(bytes.fromhex(program))\n"
        "    if hasattr(value, 'wait'): value.wait()\n"
        "    os.chdir('..')\n"
    )
    programs = {attack: (b"\x80\x04" + ATTACKS[attack][0] + b".").hex() for attack in WORKING}
    run = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(programs).encode(), capture_output=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    tame = [attack for attack in WORKING if not (tmp_path / attack / MARKER).exists()]
    assert tame == [], run.stderr.decode()


def test_the_watch_sees(trap: Path) -> None:
    with WATCH.open():
        pickle.loads(b"\x80\x04" + ATTACK + b".")
        (trap / "file").write_text("x")
        subprocess.run([sys.executable, "-c", ""])
    seen = {event.split()[0] for event in WATCH.events}
    assert {"pickle.find_class", "os.mkdir", "open", "subprocess.Popen"} <= seen
