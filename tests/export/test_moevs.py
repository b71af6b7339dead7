"""Profile `moevs` as a whole: which files, what they say, and what a failure leaves."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.errors import ConfigError, ExportError, MissingFileError, OutputError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from svc.export import moevs
from svc.export.moevs import MoevsOptions, export_moevs
from svc.export.moevs_config import hubert_name, voice_config
from svc.export.moevs_nets import MoevsNets, load_nets
from svc.retrieval.index_build import build_index
from svc.retrieval.index_files import (
    IndexRecord,
    SpeakerRecord,
    index_name,
    write_index,
    write_record,
)
from svc.retrieval.legacy_index import write_legacy


def _beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


M: Any = _beside("moevs_models")


def save_index(
    folder: Path, *, dim: int = 10, encoder: str = "vec768l12", speakers: int = 1
) -> Path:
    """Write an index as `svc train-index` does."""
    records = {}
    for number, name in enumerate(("alice", "bob", "carol")[:speakers]):
        rows = np.random.default_rng(number).standard_normal((9, dim)).astype(np.float32)
        sha256 = write_index(build_index(rows, seed=1), folder / index_name(number))
        records[name] = SpeakerRecord(
            id=number, file=index_name(number), rows=9, source_rows=9, reduced=False, n_ivf=0,
            nprobe=1, seed=1, sha256=sha256,
        )  # fmt: skip
    write_record(folder, IndexRecord(encoder, dim, "1", records))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_a_voice_with_all_that_belongs_to_it(models: Path, tmp_path: Path) -> None:
    speakers = {"alice": 0, "bob": 1}
    config = M.voice_config(2, vol_embedding=True)
    options = MoevsOptions(
        folder=tmp_path / "out" / "crs",
        model=M.save_voice(models / "voice", config),
        diffusion=M.save_diffusion(models / "diffusion", M.diffusion_config(n_spk=2)),
        vocoder=M.save_vocoder(models / "my_vocoder"),
        index=save_index(models / "index", speakers=2),
    )
    calls: list[tuple[int, int, str]] = []
    files = export_moevs(options, lambda *call: calls.append(call))
    graphs = ["encoder", "denoise", "pred", "after"]
    assert [file.path.relative_to(tmp_path / "out").as_posix() for file in files] == [
        "crs/crs_SoVits.onnx",
        *(f"crs_diffusion/crs_diffusion_{part}.onnx" for part in graphs),
        "crs_diffusion/my_vocoder.onnx",
        "crs/Index-0.index",
        "crs/Index-1.index",
        "crs_diffusion.json",
        "crs.json",
    ]
    assert names(tmp_path / "out") == sorted(
        file.path.relative_to(tmp_path / "out").as_posix() for file in files
    )
    for file in files:
        assert file.bytes == file.path.stat().st_size > 0
        assert (file.check is not None) == (file.path.suffix == ".onnx")
        assert file.check is None or file.check.max_abs_error <= 1e-5
    assert calls == [
        (1, 3, "crs_SoVits.onnx"),
        (2, 3, "crs_diffusion_encoder.onnx"),
        (3, 3, "my_vocoder.onnx"),
    ]
    out = tmp_path / "out"
    assert (out / "crs/Index-1.index").read_bytes() == (models / "index/Index-1.index").read_bytes()
    assert json.loads((out / "crs.json").read_text(encoding="ascii")) == {
        "Folder": "crs",
        "Name": "crs",
        "Type": "SoVits",
        "Rate": 44100,
        "Hop": 512,
        "Hubert": "vec-768-layer-12",
        "SoVits4": True,
        "SoVits3": False,
        "CharaMix": True,
        "Volume": True,
        "HiddenSize": 10,
        "Characters": ["alice", "bob"],
        "Cluster": "Index",
        "ShallowDiffusion": "crs_diffusion",
    }
    assert json.loads((out / "crs_diffusion.json").read_text(encoding="ascii")) == {
        "Folder": "crs_diffusion",
        "Name": "crs_diffusion",
        "Type": "DiffSvc",
        "Rate": 44100,
        "Hop": 512,
        "MelBins": 8,
        "Hubert": "vec-768-layer-12",
        "Hifigan": "my_vocoder",
        "HiddenSize": 10,
        "Characters": ["alice", "bob"],
        "CharaMix": True,
        "Volume": True,
        "V2": True,
        "Diffusion": True,
        "MaxStep": 1000,
    }
    said = M.facts(out / "crs/crs_SoVits.onnx")
    assert json.loads(said["speakers"]) == speakers
    assert (said["profile"], said["sampling_rate"], said["units_dim"]) == ("moevs", "44100", "10")
    assert said["mel2ph"] == "1-based, 0 = zeros"
    said = M.facts(out / "crs_diffusion/crs_diffusion_after.onnx")
    assert (said["mel_out"], said["k_step_max"]) == ("natural logarithm", "1000")
    assert M.facts(out / "crs_diffusion/my_vocoder.onnx")["n_mels"] == "8"


def test_a_diffusion_voice_alone(models: Path, tmp_path: Path) -> None:
    config = M.diffusion_config(n_spk=None, k_step_max=60, vocoder="nsf-hifigan-log10")
    diffusion = M.save_diffusion(models, config)
    moved = (models / "config.yaml").rename(models / "other.yaml")
    folder = tmp_path / "out" / "refiner"
    files = export_moevs(MoevsOptions(folder, diffusion=diffusion, diffusion_config=moved))
    assert [file.path.name for file in files] == [
        *(f"refiner_{part}.onnx" for part in ("encoder", "denoise", "pred", "after")),
        "refiner.json",
    ]
    described = json.loads((tmp_path / "out/refiner.json").read_text(encoding="ascii"))
    assert (described["MaxStep"], described["CharaMix"]) == (60, False)
    assert described["Hifigan"] == "nsf_hifigan"
    assert M.facts(folder / "refiner_after.onnx")["mel_out"] == "common logarithm"
    found = M.open_graph(folder / "refiner_after.onnx")(x=np.ones((1, 1, 8, 3), np.float32))
    assert np.abs(found - 2 * 0.434294).max() < 1e-6


def test_a_vocoder_alone(models: Path, tmp_path: Path) -> None:
    M.save_vocoder(models)
    (file,) = export_moevs(MoevsOptions(tmp_path / "out", vocoder=models))  # its folder will do
    assert file.path == tmp_path / "out" / "models.onnx"
    assert names(tmp_path / "out") == ["models.onnx"]


def load(model: Path, index: Path) -> MoevsNets:
    return load_nets(
        model=model, config=None, diffusion=None, diffusion_config=None, vocoder=None, index=index
    )


def test_the_original_index_file(models: Path) -> None:
    voice, index = M.save_voice(models), save_index(models / "index")
    old = models / "feature_and_index.pkl"
    write_legacy(old, {0: index / "Index-0.index"})
    assert load(voice, old).index == {0: (index / "Index-0.index").read_bytes()}


def test_what_is_there_is_not_replaced(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = M.save_voice(models)
    (tmp_path / "crs.json").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(moevs, "export_synthesizer", lambda *_, **__: pytest.fail("long work"))
    with pytest.raises(OutputError, match=r"crs\.json is there already; --force replaces it"):
        export_moevs(MoevsOptions(tmp_path / "crs", model=voice))
    (tmp_path / "crs" / "crs_SoVits.onnx").mkdir(parents=True)
    with pytest.raises(OutputError, match="a folder of that name is in the way"):
        export_moevs(MoevsOptions(tmp_path / "crs", model=voice, force=True))
    assert (tmp_path / "crs.json").read_text(encoding="utf-8") == "mine"


def test_a_failed_export_changes_nothing(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "crs").mkdir(parents=True)
    for name in ("crs.json", "crs/crs_SoVits.onnx"):
        (out / name).write_text(f"old {name}", encoding="utf-8")
    options = MoevsOptions(
        out / "crs",
        model=M.save_voice(models / "voice"),
        diffusion=M.save_diffusion(models / "diffusion"),
        tolerance=1e-12,
        force=True,
    )
    with pytest.raises(ExportError, match=r"crs_SoVits\.onnx differs from the net by"):
        export_moevs(options)
    assert names(out) == ["crs.json", "crs/crs_SoVits.onnx"]
    assert all((out / name).read_text(encoding="utf-8") == f"old {name}" for name in names(out))
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"sampling_rate": 48000}}, '"data.sampling_rate" is 48000, the voice has'),
        ({"data": {"block_size": 256}}, '"data.block_size" is 256'),
        ({"data": {"encoder": "dphubert"}}, '"data.encoder" is dphubert'),
        ({"n_spk": 3}, '"spk" is'),
    ],
)
def test_a_diffusion_voice_of_another_voice(
    changes: dict[str, Any], message: str, models: Path, tmp_path: Path
) -> None:
    changes = dict(changes)
    config = M.diffusion_config(**changes.pop("data", {}), **changes)
    refiner = M.save_diffusion(models / "diffusion", config)
    with pytest.raises(ConfigError, match=message):
        export_moevs(MoevsOptions(tmp_path / "crs", model=M.save_voice(models), diffusion=refiner))
    assert names(tmp_path / "crs") == []


def test_a_vocoder_of_other_mels(models: Path, tmp_path: Path) -> None:
    vocoder = M.save_vocoder(models / "vocoder", sampling_rate=48000)
    refiner = M.save_diffusion(models / "diffusion")
    with pytest.raises(ConfigError, match=r"do not fit: data\.sampling_rate 44100"):
        export_moevs(MoevsOptions(tmp_path / "crs", diffusion=refiner, vocoder=vocoder))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"dim": 12}, "units 12 wide, the voice takes 10"),
        ({"encoder": "dphubert"}, "was made of units of dphubert, the voice takes those of vec768"),
        ({"speakers": 2}, "has an index of speaker 1, the voice has the ids 0"),
    ],
)
def test_an_index_of_another_voice(
    index: dict[str, Any], message: str, models: Path, tmp_path: Path
) -> None:
    stored = save_index(models / "index", **index)
    with pytest.raises(ConfigError, match=message):
        export_moevs(MoevsOptions(tmp_path / "crs", model=M.save_voice(models), index=stored))


def test_a_speaker_without_index_is_told(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    voice = M.save_voice(models, M.voice_config(2))
    assert list(load(voice, save_index(models / "index")).index) == [0]
    assert "has no index of bob" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say what to export"),
        ({"diffusion": Path("x"), "index": Path("y")}, "--index belongs to a voice"),
        ({"vocoder": Path("x"), "tolerance": 0.0}, "--tolerance must be above 0, found 0"),
        ({"vocoder": Path("x"), "tolerance": float("nan")}, "--tolerance must be above 0"),
        ({"vocoder": Path("x"), "folder": Path("a/..")}, "name a folder"),
    ],
)
def test_options_that_say_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MoevsOptions(**{"folder": Path("out"), **options})


def test_files_that_are_not_there(models: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"config\.json is not there"):
        export_moevs(MoevsOptions(tmp_path / "crs", model=models / "G_1.pth"))
    voice = M.save_voice(models)
    with pytest.raises(MissingFileError, match=r"config\.json"):
        export_moevs(MoevsOptions(tmp_path / "crs", model=voice, vocoder=models / "no" / "model"))
    assert not (tmp_path / "crs").exists()


def test_a_mini_vocoder_is_refused(models: Path, tmp_path: Path) -> None:
    from svc.checkpoint import save_checkpoint
    from svc.config import load_vocoder_config
    from svc.vocoder.nsf_hifigan import NsfHifigan

    path = M.save_vocoder(models, mini_nsf=True)
    net = NsfHifigan(load_vocoder_config(models / "config.json"))
    save_checkpoint({"generator": net.generator.state_dict()}, path)
    with pytest.raises(ConfigError, match="is a mini-NSF vocoder"):
        export_moevs(MoevsOptions(tmp_path / "crs", vocoder=path))


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        ("vec768l12", "vec-768-layer-12"),
        ("vec256l9", "vec-256-layer-9"),
        ("vec256l12-onnx", "vec-256-layer-12"),
        ("hubertsoft", "hubert-soft"),
        ("whisper-ppg", "whisper-ppg"),
        ("wavlmbase+", "wavlmbase+"),
    ],
)
def test_the_encoders_name_is_its_own(encoder: str, name: str) -> None:
    assert hubert_name(encoder) == name
    config = M.voice_config(speech_encoder=encoder, gin_channels=768)
    assert voice_config(config, "x")["Hubert"] == name
