"""Small nets in the file formats of the big ones, made here from random numbers."""

from __future__ import annotations

import argparse
import collections
import importlib.util
import itertools
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


def _load_formats() -> Any:
    """The module beside this one: pytest's way of importing tests knows no neighbours."""
    path = Path(__file__).with_name("wave_formats.py")
    spec = importlib.util.spec_from_file_location("svc_tests_wave_formats", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FORMATS = _load_formats()


@pytest.fixture(scope="session")
def make_fairseq_tensors() -> Callable[..., dict[str, Tensor]]:
    return FORMATS.fairseq_tensors


@pytest.fixture(scope="session")
def make_wavlm_tensors() -> Callable[..., dict[str, Tensor]]:
    return FORMATS.wavlm_tensors


@pytest.fixture
def fairseq_classes() -> Iterator[Callable[[str], Any]]:
    """Return a function that makes a class of a given dotted name that can be pickled under that
    name.
    """
    added: list[str] = []

    def make(dotted: str) -> Any:
        *parents, name = dotted.split(".")
        for depth in range(1, len(parents) + 1):
            module_name = ".".join(parents[:depth])
            if module_name not in sys.modules:
                sys.modules[module_name] = types.ModuleType(module_name)
                added.append(module_name)
        created = type(name, (), {"__module__": module_name})
        setattr(sys.modules[module_name], name, created)
        return created

    yield make
    for module_name in added:
        sys.modules.pop(module_name, None)


@pytest.fixture
def save_fairseq(tmp_path: Path, fairseq_classes: Callable[[str], Any]) -> Callable[..., Path]:
    """Return a function that writes tensors as fairseq's trainer would, with all its
    bookkeeping.
    """

    def save(
        tensors: dict[str, Tensor],
        *,
        legacy: bool = False,
        omegaconf: bool = False,
        half: bool = False,
        cfg_model: dict[str, Any] | None = None,
        name: str = "hubert.pt",
    ) -> Path:
        dictionary = fairseq_classes("fairseq.data.dictionary.Dictionary")()
        dictionary.symbols, dictionary.indices = ["<s>", "0"], {"<s>": 0, "0": 1}
        cfg: Any = {"model": cfg_model or {}, "task": {"normalize": True, "sample_rate": 16000}}
        args = None
        if omegaconf:
            config = fairseq_classes("omegaconf.dictconfig.DictConfig")()
            node = fairseq_classes("omegaconf.nodes.AnyNode")()
            metadata = fairseq_classes("omegaconf.base.ContainerMetadata")()
            metadata.ref_type, metadata.key = Any, None
            node.__dict__.update(_val="default", _metadata=metadata)
            metadata.resolver_cache = collections.defaultdict(dict)
            config.__dict__.update(_content={"model": node}, _metadata=metadata, _parent=None)
            cfg, args = config, argparse.Namespace(arch="hubert", lr=[0.1])
        state = collections.OrderedDict(
            (key, tensor.half() if half else tensor) for key, tensor in tensors.items()
        )
        path = tmp_path / name
        torch.save(
            {
                "args": args,
                "cfg": cfg,
                "model": state,
                "criterion": {},
                "optimizer_history": [{"num_updates": 500, "optimizer_name": "FairseqAdam"}],
                "task_state": {"dictionaries": [dictionary]},
                "extra_state": {"metrics": collections.OrderedDict(), "best": 3.5},
                "last_optimizer_state": {"state": {0: {"exp_avg": torch.ones(1000)}}},
            },
            path,
            _use_new_zipfile_serialization=not legacy,
        )
        return path

    return save


@pytest.fixture
def make_wave_file(tmp_path: Path, save_fairseq: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function ``make(kind, *, tensors=None, settings=None, half=False, legacy=False,
    path=None, **sizes)`` that writes a net of the wav2vec 2.0 family in one of the formats
    `WAVE_KINDS`.

    Args of that function:
        tensors: by fairseq's (or unilm's) names; made from `sizes` (large, dim, ffn, layers, conv,
            projection, seed; see `fairseq_tensors`) where not given.
        settings: entries of the file's config that differ from what fits the tensors.
        half: store float16.
        legacy: torch's old container instead of the zip.
        path: where to; a new name in `tmp_path` where not given. A Hugging Face model is a folder
            (config.json, model.safetensors), or a lone file where the path ends so.
    """
    numbers = itertools.count()

    def make(
        kind: str,
        *,
        tensors: dict[str, Tensor] | None = None,
        settings: dict[str, Any] | None = None,
        half: bool = False,
        legacy: bool = False,
        path: Path | None = None,
        **sizes: Any,
    ) -> Path:
        if kind not in FORMATS.WAVE_KINDS:
            raise ValueError(f"{kind!r} is none of {FORMATS.WAVE_KINDS}")
        state = tensors
        if state is None:
            state = (
                FORMATS.wavlm_tensors(**sizes)
                if "wavlm" in kind
                else FORMATS.fairseq_tensors(**sizes)
            )
        if half:
            state = {name: tensor.half() for name, tensor in state.items()}
        large = "feature_extractor.conv_layers.1.2.1.weight" in state
        given = settings or {}
        where = path or tmp_path / f"{kind}_{next(numbers)}{'' if 'face' in kind else '.pt'}"
        content: dict[str, Any]
        if kind == "fairseq":
            made = save_fairseq(state, legacy=legacy, cfg_model=given, name=where.name)
            return made if made == where else made.rename(where)
        if kind == "wavlm":
            content = {"cfg": FORMATS.unilm_cfg(state, large) | given, "model": state}
        elif kind == "dphubert":
            content = FORMATS.dphubert_file(state, **given)
        elif kind == "hubert_soft":
            content = collections.OrderedDict(FORMATS.hubert_soft_names(state))
        elif kind.startswith("torchaudio"):
            content = collections.OrderedDict(FORMATS.torchaudio_names(state))
        else:
            return FORMATS.save_hugging_face(
                state, where, FORMATS.hugging_face_config(state, large) | given
            )
        torch.save(content, where, _use_new_zipfile_serialization=not legacy)
        return where

    return make


class Attack:
    """Creates a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.fixture(params=["zip", "legacy", "plain pickle", "inside a fairseq file"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A weight file that would create a folder if it were unpickled, and that folder."""
    path, target = tmp_path / "hostile.pt", tmp_path / "attacked"
    attack = Attack(target)
    if request.param == "plain pickle":
        path.write_bytes(pickle.dumps({"model": attack}))
    elif request.param == "inside a fairseq file":
        torch.save({"model": FORMATS.fairseq_tensors(), "cfg": {"model": attack}}, path)
    else:
        zipped = request.param == "zip"
        torch.save({"model": attack}, path, _use_new_zipfile_serialization=zipped)
    return path, target


def read_speech(shared: Path, seconds: float) -> Tensor:
    """Real speech at 16 kHz, several clips one after the other."""
    from svc.audio.io import read_audio
    from svc.audio.resample import resample

    parts: list[Tensor] = []
    for path in sorted((shared / "audio" / "speech" / "ljspeech").glob("*.flac")):
        wav, sr = read_audio(path)
        parts.append(torch.from_numpy(resample(wav, sr, 16000)))
        if sum(map(len, parts)) >= seconds * 16000:
            break
    return torch.cat(parts)[: int(seconds * 16000)]


@pytest.fixture(scope="session")
def speech(shared: Path) -> Tensor:
    return read_speech(shared, 4.0)


@pytest.fixture(scope="session")
def long_speech(shared: Path) -> Tensor:
    return read_speech(shared, 70.0)


@pytest.fixture
def random_net() -> Callable[..., Any]:
    """Return ``random_net(kind, **changes)``: a small net of a kind (base, large, wavlm, pruned)
    with weights, norms and biases away from their defaults; the same at every call.
    """
    from svc.speech.wav2vec2 import Wav2Vec2, Wav2Vec2Config

    def make(kind: str, **changes: Any) -> Wav2Vec2:
        large, pruned = kind == "large", kind == "pruned"
        sizes: dict[str, Any] = {
            "conv_channels": (16, 20, 24, 20, 16, 24, 28) if pruned else (32,) * 7,
            "conv_bias": large,
            "conv_layer_norm": large,
            "dim": 64,
            "n_heads": (2, 0, 1) if pruned else (2, 2, 2),
            "ffn_dims": (96, 40, 0) if pruned else (96,) * 3,
            "head_dim": 32,
            "pre_norm": large,
            "position_kernel": 128,
            "position_groups": 16,
            "projection_dim": None if large else 24,
            "feature_scale": pruned,
            "relative_buckets": 320 if kind == "wavlm" else 0,
        }
        net = Wav2Vec2(Wav2Vec2Config(**sizes | changes)).eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in net.named_parameters():
            if parameter.dim() == 1:
                mean = 0.0 if name.endswith("bias") else 1.0
                parameter.normal_(mean, 0.3, generator=generator)
            else:
                parameter.normal_(0.0, 1.5 / parameter[0].numel() ** 0.5, generator=generator)
        return net

    return make
