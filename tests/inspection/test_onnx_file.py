"""The reader of ONNX outlines: what the onnx package reads, without it and without the weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.config import SvcConfig
from svc.inspection import Report
from svc.inspection.onnx_file import NoGraphError, read_outline

onnx = pytest.importorskip("onnx")
FLOAT = onnx.TensorProto.FLOAT


def graph(path: Path, inputs: dict[str, Any], outputs: dict[str, Any], **changes: Any) -> Path:
    """Write a graph that ties its outputs to its first input."""
    weight = onnx.numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    nodes = [onnx.helper.make_node("Constant", [], ["k"], value=weight)]
    first = next(iter(inputs))
    nodes += [onnx.helper.make_node("Identity", [first], [name]) for name in outputs]
    ports = [
        [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in group.items()]
        for group in (inputs, outputs)
    ]
    made = onnx.helper.make_graph(nodes, "g", ports[0], ports[1], [weight])
    model = onnx.helper.make_model(
        made, producer_name="tests", opset_imports=[onnx.helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.helper.set_model_props(model, {"rate": "44100"})
    if "location" in changes:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=changes["location"])
    path.write_bytes(model.SerializeToString())
    return path


ENCODER = ({"source": [1, 1, "n"]}, {"embed": [1, "frames", 768]})


def test_the_outline_is_what_onnx_reads(tmp_path: Path) -> None:
    path = graph(tmp_path / "a.onnx", *ENCODER)
    outline = read_outline(path)
    model = onnx.load(str(path))
    assert (outline.ir_version, outline.producer, outline.name) == (8, "tests", "g")
    assert outline.opsets == {"": 17}
    assert outline.metadata == {"rate": "44100"}
    assert list(map(str, outline.inputs)) == ["source float32 [1, 1, n]"]
    assert list(map(str, outline.outputs)) == ["embed float32 [1, frames, 768]"]
    assert outline.operators.total() == len(model.graph.node) == 2
    assert outline.weights == {"float32": 24}, "an initializer and a constant"
    assert outline.other_files == []


def test_a_real_graph(look: Callable[..., Report]) -> None:
    swift = pytest.importorskip("svc.f0.swift").swift_asset()
    if swift is None:
        pytest.skip("swift-f0 is not installed")
    outline, model = read_outline(swift), onnx.load(str(swift))
    assert outline.operators.total() == len(model.graph.node)
    assert [port.name for port in outline.inputs] == [item.name for item in model.graph.input]
    report = look(swift)
    assert (report.finding.facts["role"], report.good) == ("swift", True)


def test_weights_in_other_files(look: Callable[..., Report], tmp_path: Path) -> None:
    report = look(graph(tmp_path / "a.onnx", *ENCODER, location="w.bin"))
    assert any("other files (w.bin)" in note for note in report.finding.notes)
    assert report.good
    for place in ("/etc/passwd", "../../x", "..\\x", "C:\\x"):
        report = look(graph(tmp_path / "a.onnx", *ENCODER, location=place))
        assert report.safety.safe is False, place
        assert "would read other files" in report.safety.how


def test_damage(look: Callable[..., Report], tmp_path: Path) -> None:
    path = graph(tmp_path / "a.onnx", *ENCODER)
    whole = path.read_bytes()
    for length in range(3, len(whole)):
        path.write_bytes(whole[:length])
        try:
            assert read_outline(path).metadata != {"rate": "44100"}
        except ValueError as error:
            assert "ends inside" in str(error) or isinstance(error, NoGraphError)  # noqa: PT017
    path.write_bytes(whole[: len(whole) // 2])
    report = look(path)
    assert (report.finding.kind, report.good) == ("ONNX graph", False)
    chance = random.Random(0)  # noqa: S311
    for _ in range(300):
        changed = bytearray(whole)
        changed[chance.randrange(len(whole))] = chance.randrange(256)
        path.write_bytes(bytes(changed))
        try:
            read_outline(path)
        except ValueError:
            continue


def test_other_messages_are_no_graphs(look: Callable[..., Report], tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x08\x05\x12\x03abc")
    with pytest.raises(NoGraphError):
        read_outline(path)
    assert look(path).finding.kind == "unknown"


ROLES = {
    "moevs voice": ("c f0 mel2ph uv noise sid vol", "audio"),
    "moevs condition": ("hubert mel2ph f0 volume spk_mix", "mel_pred"),
    "diffusion_denoiser.onnx": ("noise time condition", "noise_pred"),
    "moevs step": ("noise noise_pred time time_prev", "noise_pred_o"),
    "moevs end": ("x", "mel_out"),
    "vocoder": ("mel f0", "audio"),
    "synthesizer.onnx": (
        "units f0 uv noise noise_scale source_phase source_noise speaker_mix volume",
        "wav",
    ),
    "f0_decoder.onnx": ("units f0 uv speaker_mix", "f0_predicted"),
    "diffusion_condition.onnx": ("units f0 volume", "condition"),
    "vocoder.onnx": ("mel f0 source_phase source_noise", "wav"),
    "encoder.onnx": ("wav", "units"),
    "pitch net": ("wav threshold f0_min f0_max", "f0 confidence"),
    "other": ("a b", "c"),
}


@pytest.mark.parametrize("role", ROLES)
def test_roles(look: Callable[..., Report], tmp_path: Path, role: str) -> None:
    inputs, outputs = ({key: [1, "n"] for key in names.split()} for names in ROLES[role])
    report = look(graph(tmp_path / "x.onnx", inputs, outputs))
    assert report.finding.facts["role"] == role
    assert report.good


def test_a_speech_encoder(
    look: Callable[..., Report], make_config: Callable[..., SvcConfig], tmp_path: Path
) -> None:
    path = graph(tmp_path / "vec-768-layer-12.onnx", *ENCODER)
    report = look(path)
    assert report.finding.fits == ("--speech_encoder vec768l9-onnx or vec768l12-onnx",)
    assert report.notes == ()
    match = look(path, config=make_config()).match
    assert match is not None
    assert match.differences == ("it gives units 768 wide, model.ssl_dim is 384",)
    assert "misleading" in look(path.rename(tmp_path / "rmvpe.pt")).notes[0]
