"""Small nets in the file formats of the big ones, made here from random numbers."""

from __future__ import annotations

import argparse
import collections
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


def fairseq_tensors(
    *,
    large: bool = False,
    dim: int = 64,
    ffn: int = 96,
    layers: int = 2,
    conv: int = 16,
    projection: int | None = 24,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Tensors of a HuBERT under fairseq's names, in fairseq's order."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, mean: float = 0.0) -> Tensor:
        scale = 0.3 if mean else 1.5 / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        return mean + scale * torch.randn(*shape, generator=generator)

    state = {"mask_emb": draw(dim)}
    if projection:
        state["label_embs_concat"] = draw(50, projection)
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        name = f"feature_extractor.conv_layers.{i}"
        state[f"{name}.0.weight"] = draw(conv, 1 if i == 0 else conv, kernel)
        if large:
            state[f"{name}.0.bias"] = draw(conv)
            state[f"{name}.2.1.weight"], state[f"{name}.2.1.bias"] = draw(conv, mean=1), draw(conv)
        elif i == 0:
            state[f"{name}.2.weight"], state[f"{name}.2.bias"] = draw(conv, mean=1), draw(conv)
    state["post_extract_proj.weight"], state["post_extract_proj.bias"] = draw(dim, conv), draw(dim)
    state["encoder.pos_conv.0.bias"] = draw(dim)
    state["encoder.pos_conv.0.weight_g"] = draw(1, 1, 128, mean=1)
    state["encoder.pos_conv.0.weight_v"] = draw(dim, dim // 16, 128)
    for i in range(layers):
        name = f"encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            state[f"{name}.self_attn.{part}.weight"] = draw(dim, dim)
            state[f"{name}.self_attn.{part}.bias"] = draw(dim)
        for part, rows, columns in (("fc1", ffn, dim), ("fc2", dim, ffn)):
            state[f"{name}.{part}.weight"] = draw(rows, columns)
            state[f"{name}.{part}.bias"] = draw(rows)
        for part in ("self_attn_layer_norm", "final_layer_norm"):
            state[f"{name}.{part}.weight"] = draw(dim, mean=1)
            state[f"{name}.{part}.bias"] = draw(dim)
    for part, width in (("encoder.layer_norm", dim), ("layer_norm", conv)):
        state[f"{part}.weight"], state[f"{part}.bias"] = draw(width, mean=1), draw(width)
    if projection:
        state["final_proj.weight"], state["final_proj.bias"] = (
            draw(projection, dim),
            draw(projection),
        )
    return state


@pytest.fixture(scope="session")
def make_fairseq_tensors() -> Callable[..., dict[str, Tensor]]:
    return fairseq_tensors


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
        torch.save({"model": fairseq_tensors(), "cfg": {"model": attack}}, path)
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
