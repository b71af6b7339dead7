"""From the bytes of a file to a finding: one reader per format."""

from __future__ import annotations

import itertools
import logging
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import torch

from svc.errors import SvcError
from svc.inspection import (
    encoders,
    graphs,
    media,
    nets,
    packs,
    pitch_nets,
    retrieval,
    texts,
    voice,
)
from svc.inspection.formats import Format, detect, first_bytes
from svc.inspection.media import unsafe
from svc.inspection.report import UNKNOWN, Fact, Finding, Safety
from svc.inspection.torch_content import MOST_NAMES, check_pickle, describe_torch_file, names_in
from svc.inspection.weights import Weights, all_tensors, size_facts
from svc.pickled_arrays import array_names
from svc.retrieval.index_files import map_file
from svc.retrieval.legacy_index import MappedBytes
from svc.safe_pickle import Builder, RefusedError, UnsupportedError, printable, read_pickle

logger = logging.getLogger(__name__)

PICKLE = "pickle"
AGAIN = "copy or download it again"
_TORCH_STREAM = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # in the first bytes of torch's
_FAISS = re.compile(r"faiss\.(swigfaiss\w*\.)?Index\w+")
_SHOWN = 8  # names of tensors
_TAR_MEMBERS = 16  # looked at
_NO_SAFETY = Safety(None, "svc loads nothing from it")
_SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
_NAMES: dict[Format, str] = {
    "zip": "zip file, as torch writes",
    "safetensors": "safetensors file",
    "npy": "array of numpy (.npy)",
    "text": "text",
}

_RECOGNISERS: tuple[Callable[[Weights], Finding | None], ...] = (
    media.bare_tensor,
    retrieval.recognise_clusters,
    voice.recognise,
    nets.recognise_diffusion,
    pitch_nets.recognise,
    encoders.recognise_whisper,
    encoders.recognise_wave_net,
    nets.recognise_vocoder,
)


def find(path: Path) -> Finding:
    """Say what a file is; nothing of it is run, whatever it holds. Raises OSError."""
    format_, head = detect(path)
    try:
        return _READERS[format_](path, head)
    except OSError:
        raise
    except RefusedError as error:
        what = "a pickle that asks for code to be run"
        return Finding(PICKLE, what, safety=unsafe(tuple(error.names)))
    except Exception as error:
        # Garbage trips a parser in any way there is; whatever it was, this file is of no use.
        logger.debug("%s: %s: %s", path, type(error).__name__, error)
        lines = str(error).splitlines() or [""]
        told = isinstance(error, ValueError | SvcError) and lines[0]
        reason = printable(lines[0]) if told else "it cannot be parsed"
        return Finding(
            format_,
            f"{_NAMES.get(format_, format_)}, by its first bytes",
            safety=Safety(None, "damaged before that can be told"),
            damage=f"{reason}; {AGAIN}",
        )


def _empty(path: Path, head: bytes) -> Finding:
    return Finding("empty", "empty file", safety=_NO_SAFETY, damage=f"it has 0 bytes; {AGAIN}")


def _unknown(path: Path, head: bytes) -> Finding:
    facts: dict[str, Fact] = {"first_bytes": first_bytes(head)}
    return Finding(UNKNOWN, "not a file svc knows", facts, safety=_NO_SAFETY)


def _unsupported(reason: str) -> Finding:
    """What is not read is not known to be harmless."""
    how = "svc does not read such files, so nothing is known of what loading it would do"
    return Finding("program", f"no weights: {reason}", safety=Safety(False, how))


# ---- torch and pickles ----------------------------------------------------------------------------


def _zip(path: Path, head: bytes) -> Finding:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # torch's reader says how it is damaged
        names = ["data.pkl"]
    if any(name.endswith(".pkl") for name in names):
        return _torch(path)
    npz = names and all(name.endswith(".npy") for name in names)
    kind = "arrays of numpy (.npz)" if npz else f"an archive of {len(names)} files; unpack it"
    return Finding(UNKNOWN, f"not a file svc knows: {kind}", safety=_NO_SAFETY)


def _torch(path: Path) -> Finding:
    try:
        content = describe_torch_file(path)
    except UnsupportedError as error:
        return _unsupported(str(error))
    count, more = content.harmless, " or more" if content.harmless >= MOST_NAMES else ""
    callables = (
        f"{count}{more} callables named, all of them harmless" if count else "no callable named"
    )
    safety = Safety(True, f"tensors and plain values, read without running it; {callables}", count)
    return replace(_recognise(Weights(path, content.value, "torch", content.bookkeeping)), safety=safety)  # fmt: skip


def _pickle(path: Path, head: bytes) -> Finding:
    """Describe a pickle: torch's older container, the old retrieval index, or another one."""
    if _TORCH_STREAM in head[:32]:
        return _torch(path)
    names = names_in(_mapped(path), inert=True)
    others = [n for n in names if n not in array_names() and not _FAISS.fullmatch(n)]
    if others or len(names) >= MOST_NAMES:
        raise RefusedError(others or names)
    if any(_FAISS.fullmatch(name) for name in names):
        return retrieval.old_index(path, len(names))
    named = names_in(_mapped(path))
    check_pickle(_mapped(path), named)
    safety = Safety(True, "plain values, read without running it", len(named))
    return Finding(UNKNOWN, "not a file svc knows: a pickle of plain values", safety=safety)


def _mapped(path: Path) -> IO[bytes]:
    return cast(IO[bytes], MappedBytes(map_file(path)))  # of a stream it has what is used


def _text(path: Path, head: bytes) -> Finding:
    return _pickle(path, head) if _is_old_pickle(path) else texts.describe_text(path)


def _binary(path: Path, head: bytes) -> Finding:
    return _pickle(path, head) if _is_old_pickle(path) else _unknown(path, head)


def _is_old_pickle(path: Path) -> bool:
    """Whether a file without a sign of its own is a pickle of the oldest protocols: one that names
    things and goes on to call them, or that ends as a pickle must. Texts break off before.
    """
    called: list[object] = []
    try:
        names = names_in(_mapped(path))
        known = {name: Builder(lambda *items: called.append(items)) for name in names}
        read_pickle(_mapped(path), known)
    except ValueError:
        return bool(called)
    return bool(names)


def _tar(path: Path, head: bytes) -> Finding:
    with tarfile.open(path, "r:") as archive:
        names = {member.name for member in itertools.islice(archive, _TAR_MEMBERS)}
    if {"pickle", "storages"} & names:
        return _unsupported("it is in torch's tar format of before 2017: save it anew with torch")
    return Finding(UNKNOWN, "not a file svc knows: a tar archive; unpack it", safety=_NO_SAFETY)


def _recognise(weights: Weights) -> Finding:
    for recognise in _RECOGNISERS:
        finding = recognise(weights)
        if finding is not None:
            return finding
    tensors = dict(all_tensors(weights.value))
    first = [f"{printable(name)} {list(t.shape)}" for name, t in list(tensors.items())[:_SHOWN]]
    facts: dict[str, Fact] = {
        "tensors": len(tensors),
        "keys": [printable(key) for key in list(weights.content)[:_SHOWN]],
        "first_tensors": list(first),
        **(size_facts(tensors) if tensors else {}),
    }
    what = "tensors of a net that svc does not know" if tensors else "plain values and no tensor"
    return Finding(UNKNOWN, f"not a file svc knows: {what}", facts)


# ---- other formats --------------------------------------------------------------------------------


def _safetensors(path: Path, head: bytes) -> Finding:
    from safetensors import SafetensorError, safe_open

    state: dict[str, torch.Tensor] = {}
    try:
        with safe_open(str(path), framework="pt", device="cpu") as handle:
            for name in handle.keys():  # noqa: SIM118 - no mapping
                part = handle.get_slice(name)
                kind = _SAFETENSORS.get(part.get_dtype(), torch.uint8)
                state[name] = torch.empty(part.get_shape(), dtype=kind, device="meta")
            metadata = handle.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    finding = _recognise(Weights(path, {"model": state, "metadata": metadata}, "safetensors"))
    facts: dict[str, Fact] = dict(finding.facts)
    if metadata:
        facts["metadata"] = {
            printable(str(key)): printable(str(value))
            for key, value in list(metadata.items())[:_SHOWN]
        }
    safety = Safety(True, "safetensors: it can hold nothing but tensors and texts")
    return replace(finding, facts=facts, safety=safety)


def _onnx(path: Path, head: bytes) -> Finding:
    return graphs.describe_graph(path) or _unknown(path, head)


def _midi(path: Path, head: bytes) -> Finding:
    safety = Safety(True, "notes: nothing in it can be run")
    return Finding("MIDI", "MIDI file: notes, for  svc infer --f0", safety=safety)


def _video(path: Path, head: bytes) -> Finding:
    what = "audio or video in a container that svc reads through ffmpeg"
    return Finding(media.AUDIO, what, safety=Safety(None, "it was not opened"))


_READERS: dict[Format, Callable[[Path, bytes], Finding]] = {
    "empty": _empty,
    "zip": _zip,
    "pickle": _pickle,
    "tar": _tar,
    "safetensors": _safetensors,
    "onnx": _onnx,
    "faiss": lambda path, _: retrieval.native_index(path),
    "npy": lambda path, _: media.array(path),
    "pack": lambda path, _: packs.describe_pack(path),
    "audio": lambda path, _: media.audio(path),
    "text": _text,
    "video": _video,
    "midi": _midi,
    "binary": _binary,
}
