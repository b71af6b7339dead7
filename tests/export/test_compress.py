"""A compressed voice is the same voice: nothing but the posterior encoder is gone."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from svc.checkpoint import load_checkpoint, load_safetensors, save_checkpoint
from svc.config import save_config
from svc.errors import CheckpointError, ConfigError, MissingFileError, OutputError, SvcError
from svc.export import compress as module
from svc.export.compress import CompressOptions, CompressReport, Difference, compress
from svc.export.sample_song import sample_song
from svc.export.voice_file import read_voice
from svc.f0.range_files import find_ranges
from svc.f0.voice_range import VoiceRange
from svc.synthesizer import load_synthesizer


def _beside(path: Path) -> Any:
    """Import a module that is no test: pytest's way of importing tests knows no neighbours."""
    spec = importlib.util.spec_from_file_location(f"svc_tests_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


VOICES: Any = _beside(Path(__file__).with_name("small_voices.py"))
RANGE = VoiceRange.between(110.0, 440.0)


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    script = Path(__file__).resolve().parents[2] / "scripts" / "reference_nets.py"
    found: ModuleType = _beside(script)
    return found


def run(path: Path, **options: Any) -> CompressReport:
    return compress(CompressOptions(path, **options))


# ---- what is written -----------------------------------------------------------------------------


def test_every_kept_tensor_is_the_same_and_in_the_original_layout(tmp_path: Path) -> None:
    config = VOICES.small_config(**VOICES.SHARED_SNAKE)
    path = VOICES.write_voice(tmp_path, config, ranges={"alice": RANGE})
    report = run(path)
    assert report.output == tmp_path / "G_8_release.pth"
    before, after = load_checkpoint(path), load_checkpoint(report.output)
    kept = [name for name in before["model"] if not name.startswith("enc_q.")]
    assert list(after["model"]) == kept
    assert all(torch.equal(after["model"][name], before["model"][name]) for name in kept)
    assert report.dropped == len(before["model"]) - len(kept) > 0
    assert (after["iteration"], after["learning_rate"]) == (0, 1e-4)
    assert report.difference == Difference(0.0, math.inf, 3.0)
    assert report.bytes_after == report.output.stat().st_size < 0.4 * report.bytes_before
    extra = after["svc"]
    assert extra["released"] is True
    assert extra["speakers"] == {"alice": 0, "bob": 1}
    assert extra["origin"]["name"] == "G_8.pth"
    assert extra["origin"]["step"] == 8
    assert len(extra["origin"]["sha256"]) == 64
    assert not {"rng", "step", "epoch", "batch"} & extra.keys()
    assert find_ranges(report.output) == {"alice": RANGE}


def test_the_original_reads_it(tmp_path: Path) -> None:
    """Its loader: torch, tensors by name, an optimizer state for all parameters (spec_core 7.5)."""
    config = VOICES.small_config()
    path = run(VOICES.write_voice(tmp_path, config), check=False).output
    content = torch.load(path, map_location="cpu", weights_only=True)
    net = VOICES.small_net(config, seed=5)
    optimizer = torch.optim.AdamW(net.parameters())
    optimizer.load_state_dict(content["optimizer"])
    assert content["optimizer"]["state"] == {}
    assert optimizer.param_groups[0]["lr"] == 1e-4
    assert tuple(optimizer.param_groups[0]["betas"]) == (0.8, 0.99)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99, last_epoch=5)
    assert content["model"].keys() == {k for k in net.state_dict() if not k.startswith("enc_q.")}


@pytest.mark.parametrize("half", [False, True])
def test_shared_tensors_stay_shared(tmp_path: Path, half: bool) -> None:
    path = VOICES.write_voice(tmp_path, VOICES.small_config(**VOICES.SHARED_SNAKE))
    model = load_checkpoint(run(path, half=half, check=False).output)["model"]
    one, two = (model[f"flow.{place}.in_layers.0.weight_v"] for place in ("wn", "flows.0.enc"))
    assert one.data_ptr() == two.data_ptr()
    # Memory of each its own: nothing of the input rides along.
    assert all(x.untyped_storage().nbytes() == x.numel() * x.element_size() for x in model.values())


def test_half(tmp_path: Path) -> None:
    config = VOICES.small_config(**VOICES.SHARED_SNAKE)
    path = VOICES.write_voice(tmp_path, config)
    report = run(path, half=True)
    assert report.output == tmp_path / "G_8_release_half.pth"
    full = load_checkpoint(path)["model"]
    model = load_checkpoint(report.output)["model"]
    assert all(torch.equal(x, full[name].half()) for name, x in model.items())
    assert report.half
    assert report.difference is not None
    assert report.difference.max_abs > 0
    assert 40 < report.difference.snr_db < 80
    assert report.bytes_after < 0.75 * run(path, check=False).bytes_after


def test_safetensors(tmp_path: Path) -> None:
    path = VOICES.write_voice(tmp_path, ranges={"alice": RANGE})
    report = run(path, safetensors=True)
    assert report.output == tmp_path / "G_8_release.safetensors"
    tensors, metadata = load_safetensors(report.output)
    full = load_checkpoint(path)["model"]
    assert all(torch.equal(x, full[name]) for name, x in tensors.items())
    assert json.loads(metadata["svc"])["svc"]["released"] is True
    assert report.difference is not None
    assert report.difference.max_abs == 0
    # What is said in the file survives the way back into a .pth.
    back = run(report.output, output=tmp_path / "back.pth", config=tmp_path / "config.json")
    assert find_ranges(back.output) == {"alice": RANGE}
    assert load_checkpoint(back.output)["svc"]["origin"]["name"] == "G_8.pth"


def test_compressing_twice_changes_nothing(tmp_path: Path) -> None:
    once = run(VOICES.write_voice(tmp_path), half=True)
    for half in (False, True):
        twice = run(once.output, output=tmp_path / f"twice_{half}.pth", half=half)
        assert twice.was_released
        assert twice.dropped == 0
        assert twice.half
        assert twice.difference == Difference(0.0, math.inf, 3.0)
        first, second = load_checkpoint(once.output), load_checkpoint(twice.output)
        assert all(torch.equal(x, first["model"][name]) for name, x in second["model"].items())
        del first["model"], second["model"]
        assert first == second


def test_same_command_same_tensors_and_order(tmp_path: Path) -> None:
    path = VOICES.write_voice(tmp_path)
    files = [
        run(path, output=tmp_path / name, check=False).output
        for name in ("a.safetensors", "b.safetensors")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_compressed_reference_net_still_sings_the_reference(
    shared: Path, parity: ModuleType, tmp_path: Path
) -> None:
    """Outputs of so-vits-svc 4.1 from our compressed file, within the limit of spec_core 12; keys
    those of its tables without the posterior encoder (spec_core 13).
    """
    variant = "tiny"  # with shared tensors
    golden = np.load(shared / "golden" / f"golden_G_{variant}.npz")
    config = parity.variant_config(shared, variant)
    save_checkpoint({"model": parity.build(shared, variant).state_dict()}, tmp_path / "G_0.pth")
    report = run(tmp_path / "G_0.pth", config=config.path, check=False)
    table = json.loads((shared / "spec" / "tables" / f"statedict_G_{variant}.json").read_text())
    content = load_checkpoint(report.output, mmap=True)
    assert list(content["model"]) == [row[0] for row in table if "enc_q" not in row[0]]
    order = json.loads((shared / "spec" / "tables" / f"paramorder_G_{variant}.json").read_text())
    assert len(content["optimizer"]["param_groups"][0]["params"]) == len(order)
    net = load_synthesizer(report.output, config, compat=True)
    inputs = parity.reference_inputs(config)
    keys = ["units", "f0", "uv", "speaker"] + (["volume"] if net.has_volume else [])
    wav, _ = net.infer(**{key: inputs[key][:1] for key in keys}, noise_scale=0.4)
    assert np.abs(wav.numpy() - golden["inf_o"]).max() <= 2e-5


# ---- where the config is from --------------------------------------------------------------------


def test_config_beside_inside_at_the_default_place_or_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = VOICES.small_config()
    path = VOICES.write_voice(tmp_path / "a", config, with_config=False)
    with pytest.raises(MissingFileError, match=r"no config\.json beside a/G_8\.pth.*-c"):
        run(Path("a/G_8.pth"), check=False)
    save_config(config, tmp_path / "configs/config.json")
    assert run(path, check=False).output.is_file()
    Path("configs/config.json").unlink()
    inside = VOICES.write_voice(tmp_path / "b", config)
    (tmp_path / "b/config.json").unlink()
    assert run(inside, check=False).output.is_file()
    wrong = VOICES.spelled(config, ssl_dim=768, speech_encoder="vec768l12")
    save_config(wrong, tmp_path / "b/config.json")
    with pytest.raises(CheckpointError, match=r"does not fit config .*b/config\.json"):
        run(inside, check=False, force=True)


# ---- what is refused -----------------------------------------------------------------------------


def refused(path: Path, error: type[SvcError], match: str, **options: Any) -> None:
    """Nothing is written, and the reason is one line."""
    before = sorted(file.name for file in path.parent.rglob("*"))
    with pytest.raises(error, match=match) as caught:
        run(path, **options)
    assert "\n" not in str(caught.value)
    assert sorted(file.name for file in path.parent.rglob("*")) == before


@pytest.mark.parametrize("value", [70000.0, -65505.0])
def test_a_weight_beyond_half_precision(tmp_path: Path, value: float) -> None:
    large = {"pre.bias": torch.full((8,), value)}
    path = VOICES.write_voice(tmp_path, changes=large)
    refused(
        path, CheckpointError, r"G_8\.pth: the tensor pre\.bias holds .*65504.*--half", half=True
    )
    assert run(path, check=False).output.is_file()


def test_directions_that_half_precision_rounds_to_zero(tmp_path: Path) -> None:
    """g · v / ‖v‖ with v = 0 is NaN."""
    faint = {"dec.ups.0.weight_v": torch.full((16, 8, 16), 1e-9)}
    path = VOICES.write_voice(tmp_path, changes=faint)
    match = r"half precision: the tensor dec\.ups\.0\.weight_v is 0 in a whole channel"
    refused(path, CheckpointError, match, half=True)
    assert run(path).difference == Difference(0.0, math.inf, 3.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    path = VOICES.write_voice(tmp_path, changes={"pre.bias": torch.full((8,), value)})
    refused(path, CheckpointError, r"the tensor pre\.bias holds NaN or infinity")


def test_other_files(tmp_path: Path) -> None:
    config = VOICES.small_config()
    path = VOICES.write_voice(tmp_path, config)
    refused(tmp_path / "G_9.pth", MissingFileError, r"G_9\.pth is not there")
    refused(path, ConfigError, "is to be read and written", output=path, force=True)
    refused(path, OutputError, "a folder of that name", output=tmp_path, force=True)
    refused(path, MissingFileError, r"none\.json", config=tmp_path / "none.json")
    taken = tmp_path / "taken.pth"
    taken.write_text("mine")
    refused(path, OutputError, r"taken\.pth is there.*--force", output=taken)
    assert taken.read_text() == "mine"
    assert run(path, output=taken, force=True, check=False).output.stat().st_size > 1000
    save_checkpoint({"model": {"discriminators.0.weight": torch.zeros(1)}}, tmp_path / "D_8.pth")
    refused(tmp_path / "D_8.pth", CheckpointError, "holds a discriminator")
    broken = dict(load_checkpoint(path)["model"])
    del broken["emb_uv.weight"]
    save_checkpoint({"model": broken}, tmp_path / "G_1.pth")
    refused(tmp_path / "G_1.pth", CheckpointError, r"missing in the file: emb_uv\.weight")
    with pytest.raises(ConfigError, match=r"--safetensors and -o x\.pth contradict"):
        CompressOptions(path, Path("x.pth"), safetensors=True)


@pytest.mark.parametrize("part", ["file", "sound"])
def test_a_result_that_is_not_what_it_should_be_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    path = VOICES.write_voice(tmp_path)
    if part == "file":
        write = module.write_voice

        def damage(state: dict[str, torch.Tensor], *args: Any, **options: Any) -> None:
            write({**state, "pre.bias": state["pre.bias"] + 1e-6}, *args, **options)

        monkeypatch.setattr(module, "write_voice", damage)
        refused(path, CheckpointError, "reads differently than it was written")
    else:
        monkeypatch.setattr(module, "measure", lambda *_: Difference(1e-7, 130.0, 3.0))
        refused(path, CheckpointError, "sounds different .by up to 1e-07")


# ---- the song ------------------------------------------------------------------------------------


def test_the_song_is_always_the_same() -> None:
    config = VOICES.small_config()
    one, two = sample_song(config), sample_song(config)
    for field in dataclasses.fields(one):
        assert torch.equal(getattr(one, field.name), getattr(two, field.name))
    n_frames = one.f0.shape[1]
    assert n_frames == round(3 * 8000 / 64)
    assert one.units.shape == (1, 384, n_frames)
    assert 0.5 < float(one.units.std()) < 1.2
    voiced = one.uv > 0
    assert 0.8 < float(voiced.float().mean()) < 0.9
    assert 100 < float(one.f0[voiced].min()) < 120
    assert 420 < float(one.f0[voiced].max()) < 460
    assert not one.f0[~voiced].any()
    assert float(one.volume.max()) == pytest.approx(0.2, rel=1e-4)


def test_the_song_hears_every_part() -> None:
    config = VOICES.small_config(vol_embedding=True)
    song, net = sample_song(config, 0.3), VOICES.small_net(config)
    usual = song.sung_by(net)
    assert usual.shape == (38 * 64,)
    parts = (
        "emb_g.weight", "emb_vol.weight", "pre.weight", "enc_p.proj.weight", "enc_p.f0_emb.weight",
        "enc_p.enc_.ffn_layers.0.conv_1.weight", "dec.m_source.l_linear.weight",
        "dec.noise_convs.0.weight", "dec.ups.2.weight_g", "dec.resblocks.2.convs2.2.weight_v",
        "dec.cond.weight", "flow.flows.0.post.weight", "emb_uv.weight",
    )  # fmt: skip
    for name in parts:
        parameter = net.get_parameter(name)
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
        assert not torch.equal(song.sung_by(net), usual), name
        with torch.no_grad():
            parameter.copy_(kept)
    assert torch.equal(song.sung_by(net), usual)


def test_difference() -> None:
    wav = torch.sin(torch.arange(1000) / 7)
    noisy = wav + 0.01 * torch.cos(torch.arange(1000) / 3)
    apart = Difference.between(wav, noisy, 1.0)
    assert apart.max_abs == pytest.approx(0.01, rel=1e-3)
    assert apart.snr_db == pytest.approx(40, abs=0.1)
    assert Difference.between(wav, wav, 1.0).snr_db == math.inf
    assert Difference.between(0 * wav, wav, 1.0).snr_db == -math.inf


def test_reading_gives_names_and_origin(tmp_path: Path) -> None:
    path = VOICES.write_voice(tmp_path)
    voice = read_voice(path)
    assert voice.origin() == {"name": "G_8.pth", "sha256": voice.sha256, "step": 8}
    assert (voice.iteration, voice.has_posterior, voice.is_half) == (3, True, False)
    prefixed = {f"module.{name}": x for name, x in voice.state.items()}
    save_checkpoint({"model": prefixed}, tmp_path / "wrapped.pth")
    assert read_voice(tmp_path / "wrapped.pth").state.keys() == voice.state.keys()
