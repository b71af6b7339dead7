"""synthesizer.onnx and f0_decoder.onnx against Synthesizer.infer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from svc.config import parse_config
from svc.errors import ConfigError, ExportError
from svc.export.full_examples import example_pitch
from svc.export.full_synthesizer import example_inputs, export_f0_decoder, export_synthesizer
from svc.synthesizer import Synthesizer

LIMIT = 1e-5  # of samples; pitch: a thousandth of a hertz
N_SPEAKERS = 3
SEED, SCALE = 7, 0.4


def make_net(**changes: Any) -> Synthesizer:
    """A small net whose every part says something, ready for inference."""
    model = {
        "inter_channels": 8, "hidden_channels": 16, "filter_channels": 24, "n_heads": 2,
        "n_layers": 1, "kernel_size": 3, "p_dropout": 0.1, "resblock": "1",
        "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]],
        "upsample_rates": [4, 4], "upsample_initial_channel": 16, "upsample_kernel_sizes": [8, 8],
        "gin_channels": 12, "ssl_dim": 10, "n_speakers": 4, "speech_encoder": "vec768l12",
    }  # fmt: skip
    raw = {
        "train": {"segment_size": 64},
        "data": {
            "sampling_rate": 44100, "filter_length": 64, "hop_length": 16, "win_length": 64,
        },
        "model": {**model, **changes},
        "spk": {"a": 0, "c": 2},
    }  # fmt: skip
    torch.manual_seed(0)
    net = Synthesizer.from_config(parse_config(raw, where="test")).eval()
    with torch.no_grad():
        for name, parameter in net.flow.named_parameters():
            if ".post." in name:  # zero in a fresh net
                parameter.normal_(0, 0.2)
        net.dec.conv_post.weight_g.mul_(10)  # an untrained net whispers
    net.enc_q = None
    net.fold_weight_norm()
    return net.requires_grad_(False)


def sing(path: Path, inputs: dict[str, Tensor]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path)
    assert [port.name for port in session.get_inputs()] == list(inputs)
    return session.run(None, {name: x.numpy() for name, x in inputs.items()})[0]


def seeded(net: Synthesizer, n_frames: int) -> dict[str, Tensor]:
    """Inputs of a graph with the random numbers that `infer` draws for `SEED`."""
    inputs = example_inputs(net, N_SPEAKERS, n_frames)
    noise = net.draw_noise(1, n_frames, seed=SEED, device=torch.device("cpu"))
    inputs["noise"], inputs["noise_scale"] = noise.prior, torch.tensor([SCALE])
    inputs["source_phase"], inputs["source_noise"] = noise.source.phase, noise.source.noise
    return inputs


def infer(net: Synthesizer, inputs: dict[str, Tensor], **given: Any) -> tuple[Tensor, Tensor]:
    content = {name: inputs[name] for name in ("units", "f0", "uv")}
    options = {"noise_scale": SCALE, "seed": SEED, "volume": inputs.get("volume")}
    return net.infer(**content, **{"speaker": None, **options, **given})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_transformer_flow": True, "n_flow_layer": 2, "vol_embedding": True},
        {"vocoder_name": "nsf-snake-hifigan", "use_depthwise_conv": True, "resblock": "2"},
    ],
    ids=["default", "transformer flow, volume", "snake, depthwise"],
)
def test_graph_is_the_net(changes: dict[str, Any], tmp_path: Path) -> None:
    net, path = make_net(**changes), tmp_path / "synthesizer.onnx"
    check = export_synthesizer(net, N_SPEAKERS, path, tolerance=LIMIT, metadata={"encoder": "x"})
    assert check.lengths == (43, 77)
    for n_frames in (1, 50):
        inputs = seeded(net, n_frames)
        # One speaker by number is the one-hot row; a mix by frame is a mix by frame.
        inputs["speaker_mix"] = torch.eye(N_SPEAKERS)[2:]
        wanted, _ = infer(net, inputs, speaker=torch.tensor([2]))
        found = sing(path, inputs)
        assert found.shape == (1, 1, 16 * n_frames)
        assert np.abs(found - wanted.numpy()).max() <= LIMIT
    mixed = example_inputs(net, N_SPEAKERS, 50, mix_frames=50)["speaker_mix"]
    inputs["speaker_mix"] = mixed
    wanted, _ = infer(net, inputs, speaker_mix=mixed)
    found_mixed = sing(path, inputs)
    assert np.abs(found_mixed - wanted.numpy()).max() <= LIMIT
    assert np.abs(found_mixed - found).max() > 100 * LIMIT
    graph = onnx.load(path)
    assert not [node.op_type for node in graph.graph.node if node.op_type.startswith("Random")]
    names = {init.name for init in graph.graph.initializer}
    assert not [name for name in names if "weight_g" in name or "enc_q" in name]
    assert graph.metadata_props[0].value == "x"


def test_pitch_decoder_is_the_nets(tmp_path: Path) -> None:
    net, path = make_net(vol_embedding=True), tmp_path / "f0_decoder.onnx"
    export_f0_decoder(net, N_SPEAKERS, path, tolerance=LIMIT, metadata={})
    inputs = seeded(net, 50)
    _, wanted = infer(net, inputs, speaker_mix=inputs["speaker_mix"], predict_f0=True)
    names = ("units", "f0", "uv", "speaker_mix", "volume")
    found = sing(path, {name: inputs[name] for name in names})
    assert found.shape == (1, 50)
    assert np.abs(found - wanted.numpy()).max() <= 100 * LIMIT
    assert np.abs(found - inputs["f0"].numpy()).max() > 1


def test_wrong_graphs_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "synthesizer.onnx"
    with pytest.raises(ExportError, match="more than the tolerance"):
        export_synthesizer(make_net(), N_SPEAKERS, path, tolerance=1e-12, metadata={})
    assert not path.exists()


def test_speakers_beyond_the_net_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names the id 4"):
        export_synthesizer(make_net(), 5, tmp_path / "x.onnx", tolerance=1, metadata={})


def test_example_melody() -> None:
    f0, uv = example_pitch(500, 0.01, seed=3)
    assert f0.shape == uv.shape == (1, 500)
    assert torch.equal(f0 > 0, uv > 0)
    assert 0.05 < float((uv == 0).float().mean()) < 0.15
    assert 100 < float(f0[f0 > 0].min()) < float(f0.max()) < 300
