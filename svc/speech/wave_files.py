"""Every file of the wav2vec 2.0 family -> one net. Which format a file has is told from what is in
it, never from its name.

| format | what is in it | module |
|---|---|---|
| fairseq: HuBERT, ContentVec | {model, cfg, ...}, tensors by fairseq's names | `fairseq` |
| unilm: WavLM | {model, cfg}, the same names and gates | `fairseq` |
| DPHuBERT; models of torchaudio | {state_dict, config}; tensors by torchaudio's names | `dphubert` |
| hubert-soft | tensors by its own names, bare or {hubert} | `hubert_soft` |
| Hugging Face | a folder, or tensors by transformers' names | `hugging_face` |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from svc.checkpoint import load_restricted, load_safetensors
from svc.errors import CheckpointError, MissingFileError
from svc.safe_pickle import printable
from svc.speech import dphubert, fairseq, hubert_soft, hugging_face
from svc.speech.wav2vec2 import Wav2Vec2
from svc.speech.wave_state import WaveState

Convert = Callable[[Mapping[str, Tensor], Mapping[str, Any]], WaveState]

_FORMATS: dict[str, tuple[Convert, str]] = {
    fairseq.SIGNATURE: (fairseq.convert, fairseq.HINT),
    hubert_soft.SIGNATURE: (hubert_soft.convert, hubert_soft.HINT),
    dphubert.SIGNATURE: (dphubert.convert, dphubert.HINT),
    hugging_face.SIGNATURE: (hugging_face.convert, hugging_face.HINT),
}
_EXPECTED = (
    "expected HuBERT, ContentVec, WavLM, DPHuBERT or hubert-soft in the format of fairseq, unilm,"
    " torchaudio or Hugging Face"
)
_WRAPPERS = ("model", "state_dict", "hubert")  # keys under which the tensors may lie
_SETTINGS = ("cfg", "config")  # keys under which the settings may lie
# Other nets that users have, by a tensor's name (or a key of the file) that tells them.
_OTHERS = (
    (r"^(model\.)?encoder\.(blocks\.\d|embed_positions)|^dims$", "a Whisper model"),
    (r"^(enc_p|enc_q|flow|emb_g)\.", "the generator of a voice (G_*.pth)"),
    (r"^discriminators\.\d", "the discriminator of a voice (D_*.pth)"),
    (r"denoise_fn\.", "a diffusion model"),
    (r"^generator$|^(dec\.)?(conv_pre|ups\.\d)", "a vocoder"),
    (r"^(unet|cent_table$|fc\.0\.gru)", "an F0 predictor"),
)


@dataclass(frozen=True)
class Content:
    """What a weight file holds."""

    tensors: Mapping[str, Tensor]  # by the file's own names
    settings: Mapping[str, Any]  # what else it says of the net
    keys: frozenset[str]  # of the whole file


def load_wave_net(path: Path) -> Wav2Vec2:
    """Load a net of the wav2vec 2.0 family.

    Args:
        path: a file of any format of this module's table, zip or legacy container, half or single
            precision, ``.safetensors`` under any of these names; or a Hugging Face folder. Names
            may have a prefix ("module.", "hubert.", ...); heads that other tasks put beside the
            net are left out.

    Returns:
        The net in float32 on the CPU, in eval mode, without gradients. Its tensors are copied from
        the file once; nothing else of the file stays in memory.

    Raises:
        MissingFileError: no such file, or a folder without weights.
        CheckpointError: truncated, hostile, holding values that are not numbers, or another kind of
            file; says what it is, or what was expected.
    """
    content = _read(path)
    try:
        state = translate(content)
    except ValueError as error:
        raise CheckpointError(f"{path} is not a file for this encoder: {error}") from error
    return state.build(str(path))


def _read(path: Path) -> Content:
    file, settings = path, {}
    if path.is_dir():
        file = hugging_face.find_weights(path)
    elif not path.is_file():
        raise MissingFileError(f"{path} is not there: it must be a weight file or a folder")
    if path.is_dir() or path.name in hugging_face.WEIGHTS:
        settings = hugging_face.read_settings(file.parent)
    if _is_safetensors(file):
        return Content(load_safetensors(file)[0], settings, frozenset())
    whole = load_restricted(file)
    state: Any = next((whole[k] for k in _WRAPPERS if isinstance(whole.get(k), Mapping)), whole)
    for key in _SETTINGS:
        if isinstance(whole.get(key), Mapping):
            settings = settings or whole[key]
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    return Content(tensors, settings, frozenset(map(str, whole)))


def _is_safetensors(file: Path) -> bool:
    """Look at the first bytes; raises CheckpointError for files that never hold such a net."""
    if file.suffix == ".onnx":
        raise CheckpointError(f"{file} is an ONNX graph: use an encoder whose id ends in -onnx")
    try:
        with file.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    if file.suffix == ".index" or start[:2] in (b"Ix", b"Iw", b"IH"):  # how faiss begins
        raise CheckpointError(f"{file} is a retrieval index (faiss), not a speech encoder")
    # Eight bytes of length, then JSON.
    return file.suffix == ".safetensors" or start[8:] == b"{"


def translate(content: Content) -> WaveState:
    """Find the format and the prefix, and rename. Raises ValueError."""
    places = [
        (name.removesuffix(signature), *format_)
        for signature, format_ in _FORMATS.items()
        for name in content.tensors
        if name == signature or name.endswith(f".{signature}")
    ]
    if not places:
        raise ValueError(_what_else(content))
    if len(places) > 1:
        prefixes = ", ".join(f'"{printable(prefix)}"' for prefix, *_ in places[:3])
        raise ValueError(f"it holds {len(places)} nets, under the prefixes {prefixes}")
    prefix, convert, hint = places[0]
    # Hugging Face's ContentVec keeps its projection outside.
    own = {
        name.removeprefix(prefix): tensor
        for name, tensor in content.tensors.items()
        if name.startswith((prefix, "final_proj."))
    }
    try:
        return convert(own, content.settings)
    except (ValueError, TypeError, RuntimeError) as error:  # the last: a tensor as a setting
        raise ValueError(f"{error}. {hint}") from error


def _what_else(content: Content) -> str:
    for pattern, what in _OTHERS:
        if any(re.search(pattern, name) for name in (*content.keys, *content.tensors)):
            return f"it is {what}; {_EXPECTED}"
    names = ", ".join(map(printable, sorted(content.tensors)[:3]))
    return f"{f'it has tensors like {names}' if names else 'it has no tensors'}; {_EXPECTED}"
