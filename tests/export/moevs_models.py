"""Small models for the tests of profile `moevs`, here and in tests/cli, and what opens their graphs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from svc.checkpoint import save_checkpoint
from svc.config import (
    DiffusionConfig,
    SvcConfig,
    load_diffusion_config,
    parse_config,
    save_config,
    save_diffusion_config,
)
from svc.config.templates import find_template
from svc.diffusion import Unit2Mel
from svc.synthesizer import Synthesizer
from svc.vocoder.generator import Generator

Array = npt.NDArray[Any]
Run = Callable[..., Array]

SMALL: dict[str, Any] = {
    "inter_channels": 8,
    "hidden_channels": 8,
    "filter_channels": 12,
    "n_layers": 1,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]],
    "upsample_initial_channel": 16,
    "upsample_rates": [16, 8, 4],
    "upsample_kernel_sizes": [32, 16, 8],
    "gin_channels": 6,
    "ssl_dim": 10,
    "n_speakers": 3,
}
"""Widths for a net whose graph is made in a second; the rest of a config stays."""


def shrink(raw: Mapping[str, Any], speakers: int = 1, **model: Any) -> SvcConfig:
    """A full-size config with small widths; flow layers are two, so that each kind does something."""
    sizes = {**SMALL, "n_flow_layer": 2, "n_layers_trans_flow": 1, **model}
    names = ("alice", "bob", "carol")[:speakers]
    return parse_config(
        {
            **raw,
            "model": {**raw["model"], **sizes},
            "spk": {name: number for number, name in enumerate(names)},
        },
        where="test",
    )


def voice_config(speakers: int = 1, **model: Any) -> SvcConfig:
    """The shipped template with small widths."""
    raw = json.loads(find_template("template.json").read_text(encoding="utf-8"))
    return shrink(raw, speakers, **model)


def make_voice(config: SvcConfig, *, fold: bool = True) -> Synthesizer:
    """A net that is heard and whose flow does something."""
    torch.manual_seed(0)
    net = Synthesizer.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in net.flow.named_parameters():
            if ".post." in name:
                parameter.normal_(0, 0.2)
        snake = config.model.vocoder_name == "nsf-snake-hifigan"
        net.dec.conv_post.weight_g.mul_(3.0 if snake else 30.0)
        net.dec.conv_post.bias.zero_()
    if fold:
        net.fold_weight_norm()
        net.enc_q = None
        net.requires_grad_(False)
    return net


def save_voice(folder: Path, config: SvcConfig | None = None, name: str = "model.pth") -> Path:
    """Write a voice and its config as training leaves them."""
    config = config or voice_config()
    state = make_voice(config, fold=False).state_dict()
    content = {"model": state, "iteration": 1, "optimizer": None, "learning_rate": 1e-4}
    save_checkpoint(content, folder / name)
    save_config(config, folder / "config.json")
    return folder / name


def diffusion_config(
    *, n_spk: int | None = 1, k_step_max: int = 0, vocoder: str = "nsf-hifigan", **data: Any
) -> DiffusionConfig:
    """The shipped template with small widths."""
    config = load_diffusion_config(find_template("diffusion_template.yaml"))
    sizes = {"n_layers": 2, "n_chans": 16, "n_hidden": 12}
    return replace(
        config,
        model=replace(config.model, n_spk=n_spk, k_step_max=k_step_max, **sizes),
        data=replace(config.data, **{"encoder_out_channels": 10, **data}),
        vocoder=replace(config.vocoder, type=vocoder),
        spk={name: number for number, name in enumerate(("alice", "bob", "carol")[: n_spk or 1])},
    )


def make_diffusion(config: DiffusionConfig, n_mels: int = 8) -> Unit2Mel:
    torch.manual_seed(0)
    net = Unit2Mel.from_config(config, n_mels=n_mels).eval().requires_grad_(False)
    net.decoder.denoise_fn.output_projection.weight.normal_(0, 0.3)  # zero in a fresh net
    return net


def save_diffusion(folder: Path, config: DiffusionConfig | None = None) -> Path:
    """Write a diffusion voice and its config as training leaves them."""
    config = config or diffusion_config()
    path = folder / "model_8.pt"
    save_checkpoint({"global_step": 8, "model": make_diffusion(config).state_dict()}, path)
    save_diffusion_config(config, folder / "config.yaml")
    return path


VOCODER: dict[str, Any] = {
    "resblock": "1",
    "upsample_rates": [16, 8, 4],
    "upsample_kernel_sizes": [32, 16, 8],
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]],
    "num_mels": 8,
    "n_fft": 2048,
    "win_size": 2048,
    "hop_size": 512,
    "sampling_rate": 44100,
    "fmin": 40,
    "fmax": 16000,
}


def make_vocoder() -> Generator:
    torch.manual_seed(0)
    net = Generator(
        VOCODER["num_mels"],
        initial_channels=VOCODER["upsample_initial_channel"],
        upsample_rates=VOCODER["upsample_rates"],
        upsample_kernel_sizes=VOCODER["upsample_kernel_sizes"],
        resblock="1",
        resblock_kernel_sizes=VOCODER["resblock_kernel_sizes"],
        resblock_dilation_sizes=VOCODER["resblock_dilation_sizes"],
        sampling_rate=VOCODER["sampling_rate"],
        phase_start="frame",
    ).eval()
    with torch.no_grad():
        net.conv_post.weight_g.mul_(3.0)
    return net


def save_vocoder(folder: Path, **changes: Any) -> Path:
    """Write a vocoder as the community publishes it."""
    save_checkpoint({"generator": make_vocoder().state_dict()}, folder / "model")
    (folder / "config.json").write_text(json.dumps({**VOCODER, **changes}), encoding="utf-8")
    return folder / "model"


def open_graph(path: Path, edit: Callable[[Any], None] | None = None) -> Run:
    """Return ``run(**inputs)`` -> first output; names and order of the inputs must be the graph's."""
    model = onnx.load(str(path))
    if edit is not None:
        edit(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def run(**feed: Any) -> Array:
        assert [port.name for port in session.get_inputs()] == list(feed)
        arrays = {name: np.asarray(x) for name, x in feed.items()}
        found: Array = session.run(None, arrays)[0]
        return found

    return run


def ports(path: Path) -> dict[str, tuple[str, list[Any]]]:
    """Inputs, then outputs: name -> type and sizes, as the file declares them."""
    graph = onnx.load(str(path), load_external_data=False).graph
    kinds = {onnx.TensorProto.FLOAT: "f32", onnx.TensorProto.INT64: "i64"}
    return {
        port.name: (
            kinds[port.type.tensor_type.elem_type],
            [dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim],
        )
        for port in (*graph.input, *graph.output)
    }


def facts(path: Path) -> dict[str, str]:
    """What a graph says of itself."""
    return {item.key: item.value for item in onnx.load(str(path)).metadata_props}


def opset(path: Path) -> int:
    (used,) = onnx.load(str(path)).opset_import
    return int(used.version)
