"""Encoders that are ONNX graphs: small ones, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from svc import errors
from svc.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    DeviceError,
    MissingDependencyError,
    MissingFileError,
)
from svc.speech import build_speech_encoder
from svc.speech.onnx import OnnxEncoder

onnx = pytest.importorskip("onnx", reason="the extra svc[onnx] is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra svc[onnx] is not installed")


def kernels(dim: int) -> Tensor:
    return torch.randn(dim, 1, 400, generator=torch.Generator().manual_seed(0)) / 20


def make_graph(
    path: Path,
    *,
    dim: int = 256,
    pad: int = 0,
    samples: int | str = "N",
    width: int | str | None = None,
    inputs: int = 1,
    kind: str = "FLOAT",
) -> Any:
    """A graph with one convolution, like a speech encoder in what goes in and comes out; saved."""
    helper, proto = onnx.helper, onnx.TensorProto
    weight = onnx.numpy_helper.from_array(kernels(dim).numpy(), "weight")
    nodes = [
        helper.make_node("Cast", ["source"], ["wave"], to=proto.FLOAT),
        helper.make_node("Conv", ["wave", "weight"], ["c"], strides=[320], pads=[pad, pad]),
        helper.make_node("Transpose", ["c"], ["units"], perm=[0, 2, 1]),
    ]
    ports = [helper.make_tensor_value_info("source", getattr(proto, kind), [1, 1, samples])]
    if inputs > 1:
        ports.append(helper.make_tensor_value_info("lengths", proto.INT64, [1]))
    last = dim if width is None else width
    out = helper.make_tensor_value_info("units", proto.FLOAT, [1, "S", last])
    graph = helper.make_graph(nodes, "encoder", ports, [out], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return model


def expected(wav: Tensor, *, dim: int = 256, pad: int = 0) -> Tensor:
    return F.conv1d(F.pad(wav, (pad, pad))[None, None], kernels(dim), stride=320)


@pytest.fixture
def wav() -> Tensor:
    return 0.3 * torch.randn(16000 * 3 + 79, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "pad", "width"),
    [("vec256l9-onnx", 0, 256), ("vec768l12-onnx", 0, "D"), ("hubertsoft-onnx", 40, "D")],
)
def test_units(tmp_path: Path, wav: Tensor, name: str, pad: int, width: int | str) -> None:
    dim = 768 if "768" in name else 256
    make_graph(tmp_path / "g.onnx", dim=dim, pad=pad, width=width)
    encoder = build_speech_encoder(name, path=tmp_path / "g.onnx")
    assert (encoder.name, encoder.dim, encoder.usual_seconds) == (name, dim, 30.0)
    units = encoder.encode(wav)
    assert units.dtype == torch.float32
    assert units.shape == (1, dim, 150 if pad else 149)
    torch.testing.assert_close(units, expected(wav, dim=dim, pad=pad), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vec-256-layer-9.onnx", "vec-256-layer-12.onnx"])
def test_default_files(tmp_path: Path, name: str) -> None:
    make_graph(tmp_path / name)
    encoder = name.replace("vec-", "vec").replace("-layer-", "l").replace(".onnx", "-onnx")
    assert build_speech_encoder(encoder, pretrain_dir=tmp_path).dim == 256


@pytest.mark.parametrize("pad", [0, 40])
def test_any_length(tmp_path: Path, pad: int) -> None:
    """A convolution hears no further than its windows overlap, so windows change nothing."""
    make_graph(tmp_path / "g.onnx", dim=8, pad=pad)
    encoder = OnnxEncoder(tmp_path / "g.onnx", name="small", dim=8)
    long = torch.randn(16000 * 100 + 123, generator=torch.Generator().manual_seed(2))
    units = encoder.encode(long)
    torch.testing.assert_close(units, expected(long, dim=8, pad=pad), rtol=1e-4, atol=1e-4)
    for samples in (0, 1, 319, 320, 399, 400, 719, 720):
        short = encoder.encode(long[:samples])
        assert short.shape == (1, 8, max(1, (samples - 400 + 2 * pad) // 320 + 1))
        assert torch.isfinite(short).all()


def test_a_batch_is_each_alone(tmp_path: Path, wav: Tensor) -> None:
    make_graph(tmp_path / "g.onnx", dim=8)
    encoder = OnnxEncoder(tmp_path / "g.onnx", name="small", dim=8)
    wavs = [wav, wav[:700], wav[:0]]
    for item, units in zip(wavs, encoder.encode_batch(wavs)):
        assert torch.equal(units, encoder.encode(item))
    with pytest.raises(AudioError, match="not numbers"):
        encoder.encode_batch([wav, torch.full((500,), torch.inf)])


def test_threads_are_those_of_torch(tmp_path: Path) -> None:
    make_graph(tmp_path / "g.onnx", dim=8)
    options = OnnxEncoder(tmp_path / "g.onnx", name="s", dim=8)._session.get_session_options()
    assert options.intra_op_num_threads == torch.get_num_threads()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dim": 768}, r"gives units 768 wide, vec256l9-onnx is 256 wide.*vec256l9-onnx"),
        ({"dim": 768, "width": "D"}, "gives units 768 wide"),
        ({"pad": 5000}, r"makes \[1, 81, 256\] of one second"),
        (
            {"inputs": 2},
            r"is not .*takes source tensor\(float\).*lengths tensor\(int64\).*one wave",
        ),
        ({"kind": "DOUBLE"}, r"is not .*takes source tensor\(double\)"),
        ({"samples": 8000}, "cannot encode 16000 samples.*another length.*[Ii]nvalid dimensions"),
    ],
)
def test_graphs_that_do_not_fit(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    make_graph(tmp_path / "g.onnx", **settings)
    with pytest.raises(CheckpointError, match=rf"g\.onnx {words}") as caught:
        build_speech_encoder("vec256l9-onnx", path=tmp_path / "g.onnx")
    assert "\n" not in str(caught.value)


def test_a_graph_for_one_length(tmp_path: Path, wav: Tensor) -> None:
    make_graph(tmp_path / "g.onnx", samples=16000)
    encoder = build_speech_encoder("vec256l9-onnx", path=tmp_path / "g.onnx")
    assert encoder.encode(wav[:16000]).shape == (1, 256, 49)
    with pytest.raises(CheckpointError, match=f"cannot encode {len(wav)} samples"):
        encoder.encode(wav)


def test_a_graph_of_another_frame_rate(tmp_path: Path, wav: Tensor) -> None:
    """One whose frames fit one second by chance is found out at the first other length."""
    model = make_graph(tmp_path / "g.onnx", dim=8)
    helper = onnx.helper
    last = model.graph.node[-1]
    last.output[0] = "all"
    for name, value in (("from", [0]), ("to", [49]), ("axis", [1])):
        array = np.array(value, dtype=np.int64)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.node.append(helper.make_node("Slice", ["all", "from", "to", "axis"], ["units"]))
    onnx.save(model, str(tmp_path / "g.onnx"))
    encoder = OnnxEncoder(tmp_path / "g.onnx", name="small", dim=8)
    with pytest.raises(CheckpointError, match=r"makes 49 frames of .* samples, expected 149"):
        encoder.encode(wav)


@pytest.mark.parametrize("content", [b"", b"this is a text file", b"\x08\x07" * 500])
def test_files_that_are_no_graphs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.onnx") as caught:
        OnnxEncoder(path, name="vec256l9-onnx", dim=256)
    assert "\n" not in str(caught.value)


def test_a_truncated_graph(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    make_graph(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"half\.onnx is not an ONNX graph .*truncated"):
        OnnxEncoder(path, name="vec256l9-onnx", dim=256)


def test_a_checkpoint_and_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"model": {"a": torch.ones(1000)}}, path)
    with pytest.raises(CheckpointError, match=r"net\.pt is not an? (ONNX )?graph"):
        OnnxEncoder(path, name="vec256l9-onnx", dim=256)
    with pytest.raises(MissingFileError, match="needs an ONNX graph"):
        OnnxEncoder(tmp_path, name="vec256l9-onnx", dim=256)


def test_unknown_operators_are_refused(tmp_path: Path) -> None:
    """onnxruntime runs what it was built with; a graph cannot bring code along."""
    model = make_graph(tmp_path / "g.onnx")
    model.graph.node[1].domain = "own"
    model.opset_import.append(onnx.helper.make_opsetid("own", 1))
    onnx.save(model, str(tmp_path / "g.onnx"))
    with pytest.raises(CheckpointError, match=r"g\.onnx is not a graph that onnxruntime .*own"):
        OnnxEncoder(tmp_path / "g.onnx", name="vec256l9-onnx", dim=256)


@pytest.mark.parametrize("place", ["beside.data", "../outside.data", "{tmp}/outside.data", "link"])
@pytest.mark.parametrize("nested", [False, True])
def test_weights_in_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, nested: bool
) -> None:
    """Whatever the path, and also in a graph within the graph: onnxruntime never sees
    it.
    """
    folder = tmp_path / "model"
    folder.mkdir()
    model = make_graph(folder / "g.onnx", dim=8)
    target = Path(place.format(tmp=tmp_path))
    if place == "link":
        (folder / target).symlink_to(tmp_path / "outside.data")
    tensor = model.graph.initializer[0]
    secret = folder / ("../outside.data" if place == "link" else target)
    secret.write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location=str(target))
    tensor.ClearField("raw_data")
    if nested:
        branch = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["weight"], ["w"])], "b", [], [], [tensor]
        )
        model.graph.node.append(
            onnx.helper.make_node("If", ["c"], ["x"], then_branch=branch, else_branch=branch)
        )
        del model.graph.initializer[:]
    (folder / "g.onnx").write_bytes(model.SerializeToString())
    monkeypatch.setattr(runtime, "InferenceSession", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(CheckpointError, match=r"g\.onnx keeps its weights in other files"):
        OnnxEncoder(folder / "g.onnx", name="small", dim=8)


def test_the_precision_is_the_graphs(tmp_path: Path) -> None:
    make_graph(tmp_path / "g.onnx")
    for precision in ("bf16", "fp16"):
        with pytest.raises(ConfigError, match=rf"its graph, {precision} .* use fp32"):
            build_speech_encoder("vec256l9-onnx", path=tmp_path / "g.onnx", precision=precision)


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_devices_that_onnxruntime_lacks(tmp_path: Path, device: str) -> None:
    make_graph(tmp_path / "g.onnx")
    with pytest.raises(DeviceError, match=f"cannot use {device}.*--device cpu"):
        OnnxEncoder(tmp_path / "g.onnx", name="vec256l9-onnx", dim=256, device=device)


def test_cuda_is_used_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime would go on with the CPU, both where it lacks CUDA and where CUDA does not
    start.
    """
    make_graph(tmp_path / "g.onnx")
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match=r"without CUDA; install onnxruntime-gpu.*--device cpu"):
        OnnxEncoder(tmp_path / "g.onnx", name="n", dim=256, device="cuda:1")
    given: list[Any] = []

    class Session:
        def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
            given.extend(providers)

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(runtime, "InferenceSession", Session)
    with pytest.raises(DeviceError, match="did not start CUDA"):
        OnnxEncoder(tmp_path / "g.onnx", name="n", dim=256, device="cuda:1")
    assert given == [("CUDAExecutionProvider", {"device_id": 1})]


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    make_graph(tmp_path / "g.onnx")
    monkeypatch.setattr(errors.importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r'pip install "svc\[onnx\]"'):
        OnnxEncoder(tmp_path / "g.onnx", name="vec256l9-onnx", dim=256)
