from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svc.errors import ConfigError, ExportError, MissingDependencyError, OutputError
from svc.export.graph import GraphInput, GraphOutput, check_graph, export_graph

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


class Smooth(nn.Module):
    """(1, 3, T) and a gain (1,) -> the filtered signal (1, 2, T) and its frame sums (1, T)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(3, 2, 5, padding=2)

    def forward(self, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x) * gain
        return y, y.sum(dim=1)


class Frozen(Smooth):
    """Adds a ramp whose length is a Python number: right on the recorded length only."""

    def forward(self, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        y, sums = super().forward(x, gain)
        ramp = torch.tensor([k / 10 for k in range(int(x.shape[2]))])
        ramp = nn.functional.pad(ramp, (0, 40))
        return y, sums + ramp[: x.shape[2]]


def case(length: int, gain: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(1, 3, length, generator=generator), torch.tensor([gain])


def export(net: nn.Module, path: Path, **options: Any) -> None:
    x, gain = case(8)
    export_graph(
        net.eval().requires_grad_(False),
        [GraphInput("x", x, {2: "frames"}), GraphInput("gain", gain)],
        [GraphOutput("y", {2: "frames"}), GraphOutput("sums", {1: "frames"})],
        path,
        **options,
    )


def sizes(ports: Sequence[Any]) -> dict[str, list[Any]]:
    return {
        port.name: [dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim]
        for port in ports
    }


def test_a_graph_computes_what_its_net_does(tmp_path: Path) -> None:
    path = tmp_path / "smooth.onnx"
    net = Smooth()
    export(net, path)
    check = check_graph(path, net, [case(5), case(31)], tolerance=1e-6)
    assert check.lengths == (5, 31)
    assert check.max_abs_error <= check.tolerance == 1e-6
    assert [file.name for file in tmp_path.iterdir()] == ["smooth.onnx"]


@pytest.mark.parametrize("opset", [16, 17])
def test_names_sizes_and_facts(tmp_path: Path, opset: int) -> None:
    path = tmp_path / "smooth.onnx"
    export(Smooth(), path, opset=opset, metadata={"rate": "44100", "who": "アリス"})
    model = onnx.load(str(path))
    assert sizes(model.graph.input) == {"x": [1, 3, "frames"], "gain": [1]}
    assert sizes(model.graph.output) == {"y": [1, 2, "frames"], "sums": [1, "frames"]}
    assert [(item.domain, item.version) for item in model.opset_import] == [("", opset)]
    assert {item.key: item.value for item in model.metadata_props} == {
        "rate": "44100",
        "who": "アリス",
    }
    assert model.producer_name == "svc"


def test_the_same_net_gives_the_same_bytes(tmp_path: Path) -> None:
    export(Smooth(), tmp_path / "a" / "smooth.onnx")
    export(Smooth(), tmp_path / "b" / "smooth.onnx")
    first, second = ((tmp_path / name / "smooth.onnx").read_bytes() for name in "ab")
    assert first == second


def test_a_graph_that_knows_one_length_only_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "frozen.onnx"
    net = Frozen()
    export(net, path)
    check_graph(path, net, [case(3), case(8)], tolerance=1e-6)
    with pytest.raises(ExportError, match=r"frozen\.onnx .* on length 31.*--tolerance") as caught:
        check_graph(path, net, [case(3), case(31)], tolerance=1e-6)
    assert caught.value.exit_code == 3
    assert not path.exists()


def test_a_graph_of_other_weights_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "smooth.onnx"
    net = Smooth()
    export(net, path)
    with torch.no_grad():
        net.conv.bias += 1e-3
    with pytest.raises(
        ExportError, match=r"differs from the net by 0\.0005 .*tolerance of 0\.0001"
    ):
        check_graph(path, net, [case(5), case(31)], tolerance=1e-4)
    assert not path.exists()
    export(net, path)
    check_graph(path, net, [case(5), case(31)], tolerance=1e-6)


def test_numbers_that_are_none_are_a_difference(tmp_path: Path) -> None:
    path = tmp_path / "smooth.onnx"
    net = Smooth()
    export(net, path)
    bad = (torch.full((1, 3, 5), torch.inf), torch.tensor([0.0]))
    with pytest.raises(ExportError, match="differs from the net by nan"):
        check_graph(path, net, [case(31), bad], tolerance=1e9)


def test_a_damaged_graph_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "smooth.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"smooth\.onnx is not an ONNX graph.*it was removed"):
        check_graph(path, Smooth(), [case(5), case(31)], tolerance=1e-6)
    assert not path.exists()


def test_an_edit_changes_what_is_run_and_not_the_file(tmp_path: Path) -> None:
    path = tmp_path / "smooth.onnx"
    net = Smooth().eval()
    export(net, path)
    before = path.read_bytes()

    def double(model: Any) -> None:
        (weight,) = (x for x in model.graph.initializer if x.name.endswith("bias"))
        value = onnx.numpy_helper.to_array(weight) + 1
        weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))

    other = Smooth().eval().requires_grad_(False)
    other.conv.bias += 1
    check_graph(path, other, [case(5), case(31)], tolerance=1e-6, edit=double)
    assert path.read_bytes() == before


def test_one_length_is_no_check(tmp_path: Path) -> None:
    path = tmp_path / "smooth.onnx"
    export(Smooth(), path)
    with pytest.raises(ValueError, match="two lengths"):
        check_graph(path, Smooth(), [case(5), case(5)], tolerance=1e-6)
    assert path.exists()


def test_the_exporter_is_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    warnings.simplefilter("always")
    export(Frozen(), tmp_path / "frozen.onnx")
    assert list(recwarn) == []
    assert tuple(capfd.readouterr()) == ("", "")


def test_what_cannot_be_recorded_says_so(tmp_path: Path) -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.fft.rfft2(x).abs() * gain
            return y, y

    with pytest.raises(ExportError, match=r"torch .* cannot export spectrum\.onnx: "):
        export(Spectrum(), tmp_path / "spectrum.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_net_in_training_mode_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    x, gain = case(8)
    inputs = [GraphInput("x", x), GraphInput("gain", gain)]
    with pytest.raises(ValueError, match="evaluation mode"):
        export_graph(Smooth().train(), inputs, [GraphOutput("y")], tmp_path / "smooth.onnx")


def test_too_many_weights_for_one_file(tmp_path: Path) -> None:
    net = nn.Linear(2**15, 2**14, device="meta").eval()
    inputs = [GraphInput("x", torch.empty(1, 2**15, device="meta"))]
    with pytest.raises(ConfigError, match=r"big\.onnx would be 2\.1 GB: one ONNX file holds 2 GB"):
        export_graph(net, inputs, [GraphOutput("y")], tmp_path / "big.onnx")


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "smooth.onnx").mkdir()
    with pytest.raises(OutputError, match="a folder of that name"):
        export(Smooth(), tmp_path / "smooth.onnx")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"svc\[onnx\]"):
        export(Smooth(), tmp_path / "smooth.onnx")
