from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.checkpoint import load_checkpoint, save_checkpoint, save_safetensors
from svc.config import load_vocoder_config
from svc.errors import CheckpointError, ConfigError, MissingFileError
from svc.vocoder.files import vocoders_in
from svc.vocoder.mini_nsf import MiniNsfGenerator, glided_turns
from svc.vocoder.nsf_hifigan import (
    NsfHifigan,
    find_vocoder,
    find_vocoder_config,
    load_vocoder,
    log_mel_of,
)
from svc.vocoder.source import SourceNoise

SMALL: dict[str, Any] = {
    "resblock": "1",
    "upsample_rates": [4, 2, 2],
    "upsample_kernel_sizes": [8, 4, 4],
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "num_mels": 6,
    "n_fft": 64,
    "win_size": 64,
    "hop_size": 16,
    "sampling_rate": 8000,
    "fmin": 40,
    "fmax": 3000,
}
Save = Callable[..., Path]


def config_file(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**SMALL, **changes}))
    return path


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes a small vocoder, `model` and `config.json`; returns the folder."""

    def write(**changes: Any) -> Path:
        torch.manual_seed(0)
        net = NsfHifigan(load_vocoder_config(config_file(tmp_path, **changes)))
        save_checkpoint({"generator": net.generator.state_dict()}, tmp_path / "model")
        return tmp_path

    return write


def sing(vocoder: NsfHifigan, batch: int = 1, n_frames: int = 7) -> Tensor:
    made = torch.Generator().manual_seed(1)
    mel = torch.randn(batch, vocoder.n_mels, n_frames, generator=made)
    f0 = torch.full((batch, n_frames), 200.0)
    wav: Tensor = vocoder(mel, f0, generator=torch.Generator().manual_seed(2))
    return wav


# ---------------------------------------------------------------- reference outputs


def _rule(name: str, shape: tuple[int, ...], r: Any) -> Any:
    """Weights of spec_vocoder 8."""
    if name.endswith("weight_g"):
        return 1 + 0.2 * r
    return 0.05 * r if name.endswith("bias") else r * math.sqrt(3 * shape[0] / math.prod(shape))


def test_golden(shared: Path, tmp_path: Path, assert_same_energies: Callable[..., None]) -> None:
    """Through the files of the community format; in float64, but for the source."""
    script = Path(__file__).resolve().parents[2] / "scripts" / "reference_nets.py"
    spec = importlib.util.spec_from_file_location("svc_reference_nets", script)
    assert spec is not None
    assert spec.loader is not None
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    table = json.loads((shared / "spec/tables/statedict_nsf_hifigan.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(table["meta"]["config"]))
    config = load_vocoder_config(tmp_path / "config.json")
    with torch.device("meta"):
        made = NsfHifigan(config)
    made.to_empty(device="cpu")
    nets.fill_weights(made.generator, _rule)
    state = made.generator.state_dict()
    state["conv_post.weight_g"].mul_(0.02)
    assert list(state) == [row["key"] for row in table["state_dict"]]
    save_checkpoint({"generator": state}, tmp_path / "model")
    vocoder = load_vocoder(tmp_path).double()
    with np.load(shared / "golden" / "golden_nsf_hifigan.npz") as golden:
        arrays = {name: torch.from_numpy(golden[name]) for name in golden}
    seeded = torch.Generator().manual_seed(9)
    wav = vocoder(arrays["mel"].double(), arrays["f0"], generator=seeded)
    assert float((wav - arrays["out"][:, 0]).abs().max()) <= 1e-6
    y = arrays["y"].double()
    assert_same_energies(vocoder.mel(y), arrays["mel_0"])
    assert_same_energies(vocoder.mel(y, key_shift=3.37), arrays["mel_p3"])
    assert_same_energies(vocoder.mel(y, key_shift=-4.2), arrays["mel_m4"])
    assert_same_energies(vocoder.mel(y, speed=1.5), arrays["mel_speed"])
    assert_same_energies(vocoder.mel(y[:, :700]), arrays["mel_short"])


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("spelling", ["classic", "parametrised", "folded", "half", "bare"])
def test_every_form_of_the_weights_loads(save: Save, spelling: str) -> None:
    folder = save()
    classic = load_vocoder(folder)
    expected = sing(classic)
    content = load_checkpoint(folder / "model")["generator"]
    if spelling == "parametrised":
        respelled = {
            name.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            ): tensor
            for name, tensor in content.items()
        }
        save_checkpoint({"generator": respelled}, folder / "model")
    elif spelling == "folded":
        save_checkpoint({"generator": classic.generator.state_dict()}, folder / "model")
    elif spelling == "half":
        halves = {name: tensor.half() for name, tensor in content.items()}
        save_checkpoint({"generator": halves}, folder / "model")
    elif spelling == "bare":
        save_safetensors(content, folder / "model.safetensors")
        (folder / "model").unlink()
    vocoder = load_vocoder(folder)
    assert not any("weight_g" in name for name in vocoder.state_dict())
    assert not vocoder.training
    assert {p.dtype for p in vocoder.parameters()} == {torch.float32}
    limit = 1e-3 if spelling == "half" else 1e-6
    torch.testing.assert_close(sing(vocoder), expected, atol=limit, rtol=0)


def test_path_of_the_weights_or_of_their_folder(save: Save) -> None:
    folder = save()
    assert find_vocoder(folder) == find_vocoder(folder / "model")
    (folder / "model").rename(folder / "model.ckpt")
    weights, config = find_vocoder(folder)
    assert (weights.name, config.name) == ("model.ckpt", "config.json")
    assert torch.equal(sing(load_vocoder(folder)), sing(load_vocoder(weights)))


@pytest.mark.parametrize("gone", ["model", "config.json"])
def test_a_missing_file_is_named_with_its_source(save: Save, gone: str) -> None:
    folder = save()
    (folder / gone).unlink()
    for path in (folder, folder / "model"):
        with pytest.raises(MissingFileError) as caught:
            load_vocoder(path)
        text = str(caught.value)
        for words in (
            f"the vocoder's file {folder / gone} is missing",
            "NSF-HiFiGAN community vocoder (57 MB",
            "OpenVPI's vocoders release nsf-hifigan-v1",
            "nsf_hifigan_20221211.zip",
            f"model and config.json lie in {folder}",
            "vocoder.ckpt",
        ):
            assert words in text
        assert "\n" not in text
        assert "://" not in text


def test_files_that_do_not_belong_together(save: Save) -> None:
    folder = save()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"num_mels": 9}, r"conv_pre\.weight_v is \[16, 6, 7\] in the file and \[16, 9, 7\]"),
        ({"resblock": "2"}, r"resblocks\.0\.convs\.0"),
        ({"mini_nsf": True}, "holds an ordinary NSF-HiFiGAN vocoder and .* of a mini-NSF vocoder"),
        ({"snake": True}, "holds an ordinary NSF-HiFiGAN vocoder and .* of an NSF-Snake vocoder"),
    ]
    for changes, words in cases:
        config_file(folder, **changes)
        with pytest.raises(CheckpointError, match=words) as caught:
            load_vocoder(folder)
        assert "same archive" in str(caught.value)
        assert "\n" not in str(caught.value)
    config_file(folder, upsample_kernel_sizes=[3, 4, 4])
    with pytest.raises(ConfigError, match=r"config\.json: .*a kernel of 3 leaves gaps at rate 4"):
        load_vocoder(folder)
    config_file(folder)
    for other in ({"generator": 3}, {"model": {"emb_g.weight": torch.zeros(2)}}):
        save_checkpoint(other, folder / "model")
        with pytest.raises(CheckpointError, match="no NSF-HiFiGAN vocoder"):
            load_vocoder(folder)


# ---------------------------------------------------------------- behaviour


def test_mel_and_back_keep_time(save: Save) -> None:
    vocoder = load_vocoder(save())
    assert (vocoder.sampling_rate, vocoder.hop_length, vocoder.n_mels) == (8000, 16, 6)
    assert str(vocoder.device) == "cpu"
    wav = torch.randn(2, 16 * 11 + 5) * 0.1
    mel = vocoder.mel(wav)
    assert mel.shape == (2, 6, 11)
    assert torch.equal(mel, log_mel_of(vocoder.config)(wav))
    assert mel.max() > -11
    back = vocoder(mel, torch.full((2, 11), 200.0))
    assert back.shape == (2, 16 * 11)
    assert back.abs().max() < 1


def test_a_seed_decides(save: Save) -> None:
    vocoder = load_vocoder(save())
    assert torch.equal(sing(vocoder), sing(vocoder))
    mel, f0 = torch.zeros(1, 6, 4), torch.zeros(1, 4)
    random = SourceNoise(torch.zeros(1, 9), torch.zeros(1, 64, 9))
    one, two = (vocoder(mel, f0, random=random) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, vocoder(mel, f0))


def test_surplus_pitch_is_cut_and_missing_pitch_refused(save: Save) -> None:
    vocoder = load_vocoder(save())
    mel, f0 = torch.zeros(1, 6, 4), torch.linspace(100, 300, 6)[None]
    one, two = (
        vocoder(mel, given, generator=torch.Generator().manual_seed(0)) for given in (f0, f0[:, :4])
    )
    assert torch.equal(one, two)
    with pytest.raises(ValueError, match="4 frames of mel and only 3"):
        vocoder(mel, f0[:, :3])


def test_common_logarithms_stay_inside(save: Save) -> None:
    folder = save()
    natural, common = load_vocoder(folder), load_vocoder(folder, kind="nsf-hifigan-log10")
    wav = torch.randn(1, 160)
    assert torch.equal(common.mel(wav), natural.mel(wav))
    mel, f0 = natural.mel(wav), torch.full((1, 10), 200.0)
    random = natural.generator.m_source.draw(1, 10, generator=None, device=f0.device)
    found = common(mel, f0, random=random)
    torch.testing.assert_close(found, natural(mel * 0.434294, f0, random=random))
    assert not torch.allclose(found, natural(mel, f0, random=random))
    with pytest.raises(
        ConfigError, match='"hifigan" is unknown; use nsf-hifigan or nsf-hifigan-log'
    ):
        load_vocoder(folder, kind="hifigan")


# ---------------------------------------------------------------- mini-NSF


def test_the_sine_of_a_mini_nsf_vocoder_glides_between_frames() -> None:
    """The phase is the running sum of F0, interpolated linearly from frame to frame."""
    f0 = torch.tensor([[200.0, 260.0, 180.0, 180.0, 90.0]])
    per_frame, rate = 64, 5512.5
    at = np.arange(5 * per_frame) / per_frame
    frequency = np.interp(at, np.arange(5), f0[0].numpy())
    expected = np.cumsum(frequency) / rate
    found = glided_turns(f0, rate, per_frame)[0].numpy()
    # Compared on the circle: 0.999 is next to 0.001.
    away = np.abs((found - expected + 0.5) % 1 - 0.5)
    assert away.max() < 1e-9
    assert found.min() >= 0
    assert found.max() < 1


def test_a_mini_nsf_vocoder_has_the_names_of_its_files(save: Save) -> None:
    folder = save(mini_nsf=True)
    vocoder = load_vocoder(folder)
    assert isinstance(vocoder.generator, MiniNsfGenerator)
    state = load_checkpoint(folder / "model")["generator"]
    assert state["source_conv.weight"].shape == (16 // 4, 1, 1)
    assert not any(name.startswith(("m_source", "noise_convs")) for name in state)
    with torch.device("meta"):
        big = MiniNsfGenerator(
            128, initial_channels=512, upsample_rates=(8, 8, 2, 2, 2),
            upsample_kernel_sizes=(16, 16, 4, 4, 4), resblock="1", resblock_kernel_sizes=(3, 7, 11),
            resblock_dilation_sizes=((1, 3, 5),) * 3, sampling_rate=44100,
        )  # fmt: skip
    assert big.source_conv.weight.shape == (128, 1, 1)
    assert (big.source_hop, big.source_rate) == (64, 44100 / 8)


def test_a_mini_nsf_vocoder_sings_without_randomness(save: Save) -> None:
    vocoder = load_vocoder(save(mini_nsf=True))
    mel, f0 = torch.randn(2, 6, 9), torch.full((2, 9), 200.0)
    wav = vocoder(mel, f0)
    assert wav.shape == (2, 16 * 9)
    assert torch.equal(wav, vocoder(mel, f0))
    assert not torch.allclose(wav, vocoder(mel, f0 * 1.5))
    with pytest.raises(ConfigError, match="has 2 or more"):
        MiniNsfGenerator(6, sampling_rate=8000, upsample_rates=(4,))


# ---------------------------------------------------------------- Snake


def test_a_snake_vocoder_loads_by_its_own_keys(save: Save) -> None:
    folder = save(snake=True)
    state = load_checkpoint(folder / "model")["generator"]
    names = ("snakes.0", "snakes.2", "resblocks.0.activations.5", "snake_post")
    assert all(f"{name}.act.alpha" in state for name in names)
    assert "snakes.0.upsample.filter" in state
    vocoder = load_vocoder(folder)
    wav = sing(vocoder, batch=2)
    assert wav.shape == (2, 16 * 7)
    assert 1e-3 < wav.abs().max() < 1
    assert torch.equal(wav, sing(load_vocoder(folder), batch=2))
    plain = save()
    config_file(plain, snake=True)
    with pytest.raises(CheckpointError, match=r"ordinary NSF-HiFiGAN vocoder and .* NSF-Snake"):
        load_vocoder(plain)
    save(snake=True)
    config_file(folder)
    with pytest.raises(CheckpointError, match=r'NSF-Snake vocoder and .* ordinary .*"snake"'):
        load_vocoder(folder)


def test_snake_is_what_makes_the_difference(save: Save) -> None:
    """The same weights with and without it."""
    snake = load_vocoder(save(snake=True))
    plain = load_vocoder(save())
    state = snake.generator.state_dict()
    plain.generator.load_state_dict({name: state[name] for name in plain.generator.state_dict()})
    assert not torch.allclose(sing(snake), sing(plain), atol=1e-3)


# ---------------------------------------------------------------- ready for singing


@pytest.mark.parametrize("kind", ["ordinary", "snake", "mini_nsf"])
@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float32, 95), (torch.bfloat16, 30), (torch.float16, 45)]
)
def test_a_settled_vocoder_sings_the_same(
    save: Save, kind: str, dtype: torch.dtype, least: float
) -> None:
    """Signal over deviation in dB."""
    folder = save(**({} if kind == "ordinary" else {kind: True}))
    expected = sing(load_vocoder(folder), n_frames=40)
    vocoder = load_vocoder(folder)
    vocoder.settle(dtype)
    found = sing(vocoder, n_frames=40)
    assert found.dtype == torch.float32
    assert float(10 * torch.log10(expected.var() / (found - expected).var())) > least


def test_what_stays_float32_in_half_precision(save: Save) -> None:
    vocoder = load_vocoder(save(upsample_rates=[2, 2, 2, 2], upsample_kernel_sizes=[4, 4, 4, 4]))
    vocoder.settle(torch.bfloat16)
    kinds = {name: tensor.dtype for name, tensor in vocoder.generator.named_parameters()}
    low = {name for name, kind in kinds.items() if kind == torch.bfloat16}
    # Two stages of four, two blocks each.
    stages = ("ups.0.", "ups.1.", "noise_convs.0.", "noise_convs.1.")
    blocks = tuple(f"resblocks.{index}." for index in range(4))
    assert low == {name for name in kinds if name.startswith((*stages, *blocks))}
    assert kinds["m_source.l_linear.weight"] == torch.float32


# ---------------------------------------------------------------- several side by side


def test_vocoders_are_called_by_their_folders(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = save()
    expected = sing(load_vocoder(made))
    home = tmp_path / "home"
    for name in ("nsf_hifigan", "mine", "empty"):
        (home / "pretrain" / name).mkdir(parents=True)
    monkeypatch.chdir(home)
    with pytest.raises(MissingFileError) as caught:
        load_vocoder("mine")
    assert "no vocoder lies there" in str(caught.value)
    for name in ("nsf_hifigan", "mine"):
        for file in ("model", "config.json"):
            (home / "pretrain" / name / file).write_bytes((made / file).read_bytes())
    assert vocoders_in() == ["mine", "nsf_hifigan"]
    weights, config = find_vocoder("mine")
    assert (weights, config) == (Path("pretrain/mine/model"), Path("pretrain/mine/config.json"))
    assert find_vocoder_config("mine") == config
    assert torch.equal(sing(load_vocoder("mine")), expected)
    # A path is a path: what is there under it comes first.
    (home / "mine").mkdir()
    assert find_vocoder_config(made / "model") == made / "config.json"
    with pytest.raises(MissingFileError, match=r"the vocoder's file mine/model is missing"):
        load_vocoder("mine")
    with pytest.raises(MissingFileError) as caught:
        load_vocoder("gone")
    text = str(caught.value)
    assert "the vocoder's file gone is missing, and pretrain/ has no folder of that name" in text
    assert "there lie: mine, nsf_hifigan" in text
    assert "\n" not in text
