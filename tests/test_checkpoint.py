"""Weight files: nothing in a file is ever run, a damaged file is named, a save is whole or not there."""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import subprocess
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from svc import checkpoint
from svc.errors import CheckpointError, MissingFileError, OutputError
from svc.safe_pickle import Inert

LOADERS = [checkpoint.load_checkpoint, checkpoint.load_restricted]


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def hostile(marker: Path) -> dict[str, Any]:
    touch = f"touch '{marker}'"
    return {
        "os.system": Calls(os.system, touch),
        "eval": Calls(eval, f"__import__('os').system({touch!r})"),
        "getattr chain": Calls(getattr, Calls(__import__, "os"), "system"),
        "nested": {"a": [({"b": Calls(exec, f"open({str(marker)!r}, 'w')")},)]},
    }


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("kind", ["os.system", "eval", "getattr chain", "nested"])
@pytest.mark.parametrize("container", ["zip", "legacy", "pickle 2", "pickle 4"])
def test_hostile_files_run_nothing(tmp_path: Path, load: Any, kind: str, container: str) -> None:
    marker, file = tmp_path / "marker", tmp_path / "voice.pth"
    content = {"model": {"w": torch.zeros(2)}, "extra": hostile(marker)[kind]}
    if container.startswith("pickle"):
        file.write_bytes(pickle.dumps(content["extra"], protocol=int(container[-1])))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(CheckpointError, match="refused: loading it would call") as caught:
        load(file)
    assert str(file) in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_at_any_point_is_an_error(tmp_path: Path, load: Any, zipped: bool) -> None:
    whole, part = tmp_path / "whole.pth", tmp_path / "part.pth"
    torch.save({"model": {"w": torch.randn(64, 64)}}, whole, _use_new_zipfile_serialization=zipped)
    content = whole.read_bytes()
    for fraction in (0.0, 0.01, 0.1, 0.5, 0.9, 0.999):
        part.write_bytes(content[: int(len(content) * fraction)])
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            load(part)
    part.write_text("this is a text file\n" * 100)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load(part)
    with pytest.raises(MissingFileError, match="nowhere"):
        load(tmp_path / "nowhere.pth")


def test_a_bare_tensor_is_not_a_checkpoint(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match="not a dictionary"):
        checkpoint.load_checkpoint(tmp_path / "t.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_bookkeeping_classes_become_inert(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "f.pt"
    content = {
        "args": argparse.Namespace(a=1),
        "extra_state": defaultdict(list, {"meters": [1, 2]}),
        "model": OrderedDict(w=torch.arange(4.0)),
        "last_optimizer_state": {"m": torch.zeros(1000)},
    }
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace"):
        checkpoint.load_checkpoint(file)
    loaded = checkpoint.load_restricted(file)
    assert loaded["model"]["w"].tolist() == [0, 1, 2, 3]
    assert not isinstance(loaded["args"], argparse.Namespace)
    assert loaded["extra_state"] == {"meters": [1, 2]}
    assert "last_optimizer_state" not in loaded
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.load_restricted(file)


def stream_file(path: Path, program: bytes) -> Path:
    """A file in torch's older container whose object is the result of a pickle program; no tensors."""
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    path.write_bytes(b"".join([*parts, b"\x80\x02" + program + b".", pickle.dumps([], 2)]))
    return path


@pytest.mark.parametrize(
    "program",
    [
        b"U\x02osC\x06system\x93U\x01x\x85R",  # a name that is no text
        b"U\x02osc_codecs\nencode\nU\x06systemU\x06latin1\x86R\x93",  # a name made by a call
        b"c_codecs\nencode\nU\x01xU\x05rot13\x86R",  # a codec that Python would import
        b"U\x09os.systemU\x01x\x85R",  # data that is called
        b"ccollections\nOrderedDict\n)R)R",  # a result that is called
        b"ctorch\nfloat32\n)R",  # a dtype that is called
        b"ccollections\nOrderedDict\nN}U\x06updateNs\x86b",  # a class whose attributes are set
        b"(U\x04fileU\x0b/etc/passwdtQ",  # references to other things than storages
        b"P/etc/passwd\n",
        b"(U\x07storagectorch\nFloatStorage\nU\x04../xU\x03cpuK\x01tQ",
    ],
)
def test_oddities_are_damage(tmp_path: Path, program: bytes) -> None:
    file = stream_file(tmp_path / "odd.pt", b"}U\x01k" + program + b"s")
    for load in [*LOADERS, checkpoint.load_tensor]:
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            load(file)
    assert checkpoint.load_checkpoint(stream_file(file, b"}U\x01kNs")) == {"k": None}


def test_a_numpy_scalar_is_never_made(tmp_path: Path) -> None:
    """Of an object dtype it would unpickle its bytes in turn; the stand-in does not look at them."""
    inner = pickle.dumps(Calls(os.mkdir, str(tmp_path / "marker")), 2).decode("latin-1")
    text = b"X" + len(inner.encode()).to_bytes(4, "little") + inner.encode()
    raw = b"c_codecs\nencode\n" + text + b"U\x06latin1\x86R"
    scalar = b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02O8\x89\x88\x87R" + raw + b"\x86R"
    file = stream_file(tmp_path / "scalar.pt", b"}U\x01k" + scalar + b"s")
    with pytest.raises(CheckpointError, match=r'cannot be read: it holds an array of dtype "O8"'):
        checkpoint.load_checkpoint(file)
    assert type(checkpoint.load_restricted(file)["k"]) is Inert
    assert not (tmp_path / "marker").exists()


def test_stand_ins_cannot_be_talked_into_anything(tmp_path: Path) -> None:
    """What an inert class is given, under whatever names, is forgotten; the class is not changed."""
    before = dict(vars(Inert))
    state = b"}(U\x09__class__U\x02osU\x0c__setstate__U\x06systemu"
    program = b"comegaconf.base\nNode\n)\x81" + state + b"bN" + state + b"\x86b"
    loaded = checkpoint.load_restricted(stream_file(tmp_path / "f.pt", b"}U\x01k" + program + b"s"))
    assert type(loaded["k"]) is Inert
    assert loaded["k"].name == "omegaconf.base.Node"
    assert dict(vars(Inert)) == before


def test_kinds_of_files_that_are_not_read_say_so(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_bytes(bytes(257) + b"ustar" + bytes(1000))
    with pytest.raises(CheckpointError, match=r"old\.pt: cannot be read: .*before 2017"):
        checkpoint.load_checkpoint(tmp_path / "old.pt")


def test_an_optimizer_state_is_never_in_memory(tmp_path: Path) -> None:
    """Peak memory of a process that loads a file of 3 MB of weights and 150 MB of Adam moments, both containers."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak of a part of a process")
    code = (
        "import os, re, sys; from pathlib import Path; from svc import checkpoint\n"
        "def memory(key): return int(re.search(key + r':\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "def peak(load, file):\n"
        "    Path('/proc/self/clear_refs').write_text('5'); before = memory('VmRSS')\n"
        "    total = sum(float(tensor.float().sum()) for tensor in load(file)['model'].values())\n"
        "    return (memory('VmHWM') - before) / 1000\n"
        "peak(checkpoint.load_restricted, sys.argv[1])\n"  # whatever is imported at the first use
        "for load in checkpoint.load_restricted, checkpoint.load_checkpoint:\n"
        "    for file in sys.argv[2:]:\n"
        "        if not os.fork():\n"  # each in a process of its own: freed memory would be used again
        "            print(peak(load, file), flush=True); os._exit(0)\n"
        "        assert os.wait()[1] == 0"
    )
    files = [tmp_path / "small.pt", tmp_path / "zip.pt", tmp_path / "stream.pt"]
    checkpoint.save_checkpoint({"model": {}}, files[0])
    moments = {i: {"exp_avg": torch.rand(3_750_000)} for i in range(10)}
    content = {"model": {"w": torch.rand(750_000)}, "last_optimizer_state": {"state": moments}}
    for file in files[1:]:
        torch.save(content, file, _use_new_zipfile_serialization=file.stem == "zip")
    command = [sys.executable, "-c", code, *map(str, files)]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    peaks = [float(line) for line in run.stdout.splitlines()]
    # Reading everything shows what the measurement would see if the state were touched.
    assert min(peaks[2:]) > 150, peaks
    assert max(peaks[:2]) < 40, peaks


def test_original_encoder_files_load(golden: Path) -> None:
    for file in sorted(golden.glob("golden_enc_tiny_*.pt")):
        loaded = checkpoint.load_restricted(file)
        key = next(k for k in ("model", "state_dict", "model_state_dict") if k in loaded)
        assert all(isinstance(value, torch.Tensor) for value in loaded[key].values())


def test_save_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "G_1.pth"
    checkpoint.save_checkpoint({"model": {"w": torch.ones(3)}}, file)

    def dies(obj: Any, target: Any) -> None:
        target.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(OutputError, match="is the disk full"):
        checkpoint.save_checkpoint({"model": {"w": torch.zeros(3)}}, file)
    monkeypatch.undo()
    assert checkpoint.load_checkpoint(file)["model"]["w"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["G_1.pth"]


def test_a_full_disk_is_seen_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(OutputError, match="free some space"):
        checkpoint.save_checkpoint({"model": {"w": torch.zeros(1000)}}, tmp_path / "G_1.pth")
    assert not list(tmp_path.iterdir())


def test_verifying_sees_what_loading_does_not(tmp_path: Path) -> None:
    file = tmp_path / "G_1.pth"
    weight = torch.arange(1000.0)
    checkpoint.save_checkpoint({"model": {"w": weight}}, file, read_back=True)
    assert torch.equal(checkpoint.load_checkpoint(file, verify=True)["model"]["w"], weight)
    whole = file.read_bytes()
    place = whole.index(weight.numpy().tobytes())
    for change in (place, place + 2000, place + 3999):
        damaged = bytearray(whole)
        damaged[change] ^= 1
        file.write_bytes(damaged)
        checkpoint.load_checkpoint(file)
        with pytest.raises(
            CheckpointError, match=r"not a readable checkpoint .*checksum of .*data"
        ):
            checkpoint.load_checkpoint(file, verify=True)
    file.write_bytes(whole[:-50])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.load_checkpoint(file, verify=True)


def test_files_without_checksums_pass_verifying(tmp_path: Path) -> None:
    old, safe = tmp_path / "old.pth", tmp_path / "m.safetensors"
    torch.save({"model": {"w": torch.ones(3)}}, old, _use_new_zipfile_serialization=False)
    checkpoint.save_safetensors({"w": torch.ones(3)}, safe)
    for file in (old, safe):
        loaded = checkpoint.load_checkpoint(file, verify=True)
        assert loaded["model"]["w"].tolist() == [1, 1, 1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission"):
        checkpoint.save_checkpoint({}, tmp_path / "G_1.pth")


def test_safetensors_round_trip(tmp_path: Path) -> None:
    shared = torch.randn(3, 4)
    checkpoint.save_safetensors(
        {"a": shared, "b": shared, "c": shared.T}, tmp_path / "m.safetensors", {"note": "声"}
    )
    tensors, metadata = checkpoint.load_safetensors(tmp_path / "m.safetensors")
    assert torch.equal(tensors["b"], shared)
    assert torch.equal(tensors["c"], shared.T)
    assert metadata == {"note": "声"}
    assert torch.equal(checkpoint.load_checkpoint(tmp_path / "m.safetensors")["model"]["a"], shared)
    (tmp_path / "bad.safetensors").write_bytes(b"123")
    with pytest.raises(CheckpointError, match="safetensors"):
        checkpoint.load_safetensors(tmp_path / "bad.safetensors")


def test_load_state_names_tensors_shapes_and_hint() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    state = {name: torch.ones_like(tensor) for name, tensor in net.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    bad = {**state, "0.weight": torch.zeros(4, 7), "2.bias": torch.zeros(1)}
    del bad["1.bias"]
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_state(net, bad, what="G_5.pth", hint="Trained with another encoder")
    message = str(caught.value)
    for part in (
        "G_5.pth",
        "0.weight is [4, 7] in the file and [4, 3]",
        "1.bias",
        "2.bias",
        "Trained with another encoder",
    ):
        assert part in message
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)
    checkpoint.load_state(
        net, {**state, "2.bias": torch.zeros(1)}, what="x", allow_unexpected=["2."]
    )
    del state["1.bias"]
    checkpoint.load_state(net, state, what="x", allow_missing=["1."])
    assert torch.equal(net.state_dict()["0.weight"], torch.ones(4, 3))


@pytest.mark.parametrize("dim", [0, 2])
def test_weight_norm_folds_from_both_spellings(dim: int) -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 5), dim=dim)
    with torch.no_grad():
        conv.parametrizations.weight.original0.mul_(1.7)
    new = {name: tensor.detach() for name, tensor in conv.state_dict().items()}
    classic = checkpoint.classic_weight_norm_keys(new)
    assert set(classic) == {"bias", "weight_g", "weight_v"}
    for state in (new, classic):
        folded = checkpoint.fold_weight_norm(state, dim=dim)
        assert set(folded) == {"bias", "weight"}
        torch.testing.assert_close(folded["weight"], conv.weight.detach(), rtol=1e-6, atol=1e-7)


def test_weight_norm_of_another_size_is_damage() -> None:
    state = {"a.weight_g": torch.ones(3), "a.weight_v": torch.ones(4, 2)}
    with pytest.raises(
        CheckpointError, match=r"a\.weight_g has 3 values where its weight_v needs 4"
    ):
        checkpoint.fold_weight_norm(state)


def test_latest_and_prune_go_by_the_exact_name(tmp_path: Path) -> None:
    names = [
        "G_0",
        "G_800",
        "G_1600",
        "G_2400",
        "G_10000",
        "D_800",
        "G_900_release",
        "Gone_5",
        "G_",
    ]
    for name in names:
        (tmp_path / f"{name}.pth").write_bytes(b"")
    assert checkpoint.find_latest(tmp_path, "G") == tmp_path / "G_10000.pth"
    assert checkpoint.find_latest(tmp_path, "D") == tmp_path / "D_800.pth"
    assert checkpoint.find_latest(tmp_path / "none", "G") is None
    assert checkpoint.step_of("logs/44k/G_800.pth") == 800
    assert checkpoint.step_of("G_800_release.pth") is None
    assert checkpoint.prune(tmp_path, "G", 0) == []
    deleted = checkpoint.prune(tmp_path, "G", 2)
    assert [path.name for path in deleted] == ["G_800.pth", "G_1600.pth"]
    assert {path.stem for path in tmp_path.iterdir()} == set(names) - {"G_800", "G_1600"}


def test_equal_content_makes_equal_files(tmp_path: Path) -> None:
    """No random name of a temporary file in them; names without a suffix work too."""
    content = {"model": {"w": torch.arange(5.0)}}
    for name in ("a.pth", "b.pth", "model"):
        checkpoint.save_checkpoint(content, tmp_path / name)
    first, second, third = ((tmp_path / n).read_bytes() for n in ("a.pth", "b.pth", "model"))
    assert first == second == third
    assert checkpoint.load_checkpoint(tmp_path / "model")["model"]["w"].tolist() == [0, 1, 2, 3, 4]


def test_safetensors_may_be_read_by_those_who_may_read_other_new_files(tmp_path: Path) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "other"
    checkpoint.save_safetensors({"w": torch.zeros(2)}, path, {"svc": "{}"})
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode
    assert checkpoint.safetensors_metadata(path) == {"svc": "{}"}
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"not a readable \.safetensors"):
        checkpoint.safetensors_metadata(path)
