"""encoder.onnx against the encoders of svc.speech, on real speech."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from svc.audio.io import read_audio
from svc.audio.mel import fcpe_mel, rmvpe_mel, whisper_mel
from svc.audio.resample import resample
from svc.errors import ConfigError
from svc.export.full_encoder import check_exportable, export_encoder
from svc.export.full_examples import example_wave
from svc.export.full_mel import GraphMel
from svc.speech.fusion import FusedEncoder
from svc.speech.onnx import OnnxEncoder
from svc.speech.registry import ENCODERS
from svc.speech.wave_encoder import Wav2Vec2Encoder
from svc.speech.wave_files import load_wave_net
from svc.speech.whisper import WhisperEncoder, load_whisper

LIMIT = 1e-4  # of units as large as 13
# Of every family; all their lengths but the last are where the number of frames changes.
LENGTHS = (400, 719, 720, 799, 800, 801, 961, 20_000)
TINY = {
    "vec768l12": "fairseq_hubert_base",
    "vec256l9": "fairseq_hubert_base",
    "cnhubertlarge": "fairseq_hubert_large",
    "wavlmbase+": "wavlm",
    "dphubert": "dphubert",
}


@pytest.fixture(scope="module")
def speech(shared: Path) -> Tensor:
    path = sorted((shared / "audio" / "speech" / "ljspeech").glob("*.flac"))[0]
    wav, sr = read_audio(path)
    return torch.from_numpy(resample(wav, sr, 16000))


@pytest.fixture(scope="module")
def build(golden: Path) -> Callable[[str], Any]:
    def make(name: str) -> Any:
        if name.startswith("whisper"):
            return WhisperEncoder(load_whisper(golden / "golden_enc_tiny_whisper.pt"), name=name)
        entry = ENCODERS[name]
        return Wav2Vec2Encoder(
            load_wave_net(golden / f"golden_enc_tiny_{TINY[name]}.pt"),
            name=name,
            layer=entry.layer,  # all three layers, where a net has fewer
            project=entry.project,
            padding=entry.padding,
        )

    return make


def encode(path: Path, wav: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path)
    assert [port.name for port in session.get_inputs()] == ["wav"]
    assert [port.name for port in session.get_outputs()] == ["units"]
    return session.run(["units"], {"wav": wav.numpy()})[0]


def assert_like(path: Path, encoder: Any, speech: Tensor, lengths: tuple[int, ...]) -> None:
    for n_samples in lengths:
        wav = speech[5000 : 5000 + n_samples]
        found, wanted = encode(path, wav[None]), encoder.encode(wav).numpy()
        assert found.shape == wanted.shape
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() <= LIMIT


@pytest.mark.parametrize("name", [*TINY, "whisper-ppg-tiny"])
def test_graph_is_the_encoder(
    name: str, build: Callable[[str], Any], speech: Tensor, tmp_path: Path
) -> None:
    path, encoder = tmp_path / "encoder.onnx", build(name)
    facts, check = export_encoder(encoder, path, tolerance=LIMIT, metadata={"svc_version": "x"})
    assert check.max_abs_error <= LIMIT
    assert (facts.id, facts.dim, facts.hop_length) == (name, encoder.dim, 320)
    assert_like(path, encoder, speech, (LENGTHS[-1],) if "whisper" in name else LENGTHS)
    graph = onnx.load(path)
    sizes = graph.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in sizes] == [1, "samples"]
    sizes = graph.graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in sizes] == [1, encoder.dim, "units"]
    assert graph.opset_import[0].version >= 17
    told = {prop.key: prop.value for prop in graph.metadata_props}
    assert told["encoder"] == name
    assert told["units_dim"] == str(encoder.dim)
    assert told["svc_version"] == "x"


def test_longest_window(build: Callable[[str], Any], speech: Tensor, tmp_path: Path) -> None:
    path, encoder = tmp_path / "encoder.onnx", build("wavlmbase+")
    facts, _ = export_encoder(encoder, path, tolerance=LIMIT, metadata={})
    long = speech.repeat(6)[: facts.most_samples]
    assert len(long) == facts.most_samples
    found, wanted = encode(path, long[None]), encoder.encode(long).numpy()
    assert found.shape == wanted.shape == (1, encoder.dim, 1499)
    # WavLM's farthest distances and the sums over 30 s are in it.
    assert np.abs(found - wanted).max() <= LIMIT


def test_fusion_is_one_graph(build: Callable[[str], Any], speech: Tensor, tmp_path: Path) -> None:
    encoder = FusedEncoder([build("dphubert"), build("whisper-ppg-tiny")])
    path = tmp_path / "encoder.onnx"
    facts, _ = export_encoder(encoder, path, tolerance=LIMIT, metadata={})
    assert facts.id == "dphubert+whisper-ppg-tiny"
    assert facts.least_samples == 400
    # 720 samples: two frames of both; 680: one of the first and two of Whisper's.
    assert_like(path, encoder, speech, (400, 680, 720))


def test_padding_of_hubert_soft(random_net: Any, speech: Tensor, tmp_path: Path) -> None:
    encoder = Wav2Vec2Encoder(
        random_net("base"), name="hubertsoft", layer=12, project=True, padding=40
    )
    path = tmp_path / "encoder.onnx"
    facts, _ = export_encoder(encoder, path, tolerance=LIMIT, metadata={})
    assert facts.least_samples == 320
    assert_like(path, encoder, speech, (320, 639, 640, 9999))


def test_waves_are_normalised_where_the_net_wants_it(
    random_net: Any, speech: Tensor, tmp_path: Path
) -> None:
    encoder = Wav2Vec2Encoder(random_net("wavlm", normalize_wave=True), name="wavlmbase+")
    path = tmp_path / "encoder.onnx"
    export_encoder(encoder, path, tolerance=LIMIT, metadata={})
    assert_like(path, encoder, 0.1 * speech + 0.05, (9999,))


def test_whisper_of_real_weights(shared: Path, speech: Tensor, tmp_path: Path) -> None:
    net = load_whisper(shared / "weights" / "whisper_tiny_en_encoder.pt")
    encoder = WhisperEncoder(net, name="whisper-ppg-tiny")
    path = tmp_path / "encoder.onnx"
    export_encoder(encoder, path, tolerance=LIMIT, metadata={})
    assert_like(path, encoder, speech, (47_777,))


def test_an_onnx_encoder_gets_the_ports_of_the_others(
    onnx_file: Path, speech: Tensor, tmp_path: Path
) -> None:
    encoder = OnnxEncoder(onnx_file, name="vec256l9-onnx", dim=256)
    path = tmp_path / "encoder.onnx"
    facts, check = export_encoder(encoder, path, tolerance=1e-6, metadata={"a": "b"})
    assert check.max_abs_error == 0
    assert (facts.least_samples, facts.dim) == (400, 256)
    assert_like(path, encoder, speech, (400, 20_000))
    onnx.checker.check_model(str(path), full_check=True)
    told = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert (told["a"], told["encoder"]) == ("b", "vec256l9-onnx")


def test_a_fusion_with_a_graph_is_refused() -> None:
    check_exportable("vec256l9-onnx")
    check_exportable("vec768l12+whisper-ppg-tiny")
    with pytest.raises(ConfigError, match=r'vec256l9-onnx is an ONNX graph.*"vec256l9\+dphubert"'):
        check_exportable("vec256l9-onnx+dphubert")


@pytest.mark.parametrize("make", [whisper_mel, rmvpe_mel, fcpe_mel])
def test_mel_as_convolution(make: Any, assert_same_energies: Any) -> None:
    mel = make()
    wav = example_wave(8000)
    graph = GraphMel(mel).double()
    base = 10.0**4 if mel.config.log == "whisper" else np.e  # whisper's is log10 / 4
    assert_same_energies(graph(wav.double()), mel(wav.double()), base=base, limit=1e-6)


@pytest.fixture
def random_net() -> Callable[..., Any]:
    from svc.speech.wav2vec2 import Wav2Vec2, Wav2Vec2Config

    def make(kind: str, **changes: Any) -> Wav2Vec2:
        sizes: dict[str, Any] = {
            "conv_channels": (16,) * 7,
            "conv_bias": False,
            "conv_layer_norm": False,
            "dim": 64,
            "n_heads": (2, 2),
            "ffn_dims": (96, 96),
            "head_dim": 32,
            "pre_norm": False,
            "position_kernel": 128,
            "position_groups": 16,
            "projection_dim": 24,
            "relative_buckets": 320 if kind == "wavlm" else 0,
        }
        torch.manual_seed(0)
        return Wav2Vec2(Wav2Vec2Config(**sizes | changes)).eval().requires_grad_(False)

    return make


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """A convolution, in the form of published graphs: (1, 1, N) -> (1, S, 256), an old opset."""
    helper = onnx.helper
    kernel = np.random.default_rng(0).normal(size=(256, 1, 400)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["source", "wav"], ["channels"], strides=[320]),
        helper.make_node("Transpose", ["channels"], ["embed"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "published",
        [helper.make_tensor_value_info("source", onnx.TensorProto.FLOAT, [1, 1, "N"])],
        [helper.make_tensor_value_info("embed", onnx.TensorProto.FLOAT, [1, "S", 256])],
        [onnx.numpy_helper.from_array(kernel, "wav")],  # a name that the new port has, too
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 8
    path = tmp_path / "published.onnx"
    onnx.save(model, path)
    return path
