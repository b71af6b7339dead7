"""A mix is the weighted sum it promises to be, and nothing that cannot be mixed is."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.checkpoint import load_checkpoint, load_safetensors, save_checkpoint
from svc.config import load_config, save_config
from svc.errors import CheckpointError, ConfigError, MissingFileError, OutputError, SvcError
from svc.export.mix import MODES, Mixed, MixOptions, likeness, mix, weights_of
from svc.f0.range_files import RANGE_FILE, find_ranges, write_ranges
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
LOW, HIGH = VoiceRange.between(100.0, 200.0), VoiceRange.between(200.0, 800.0)


def run(paths: Sequence[Path], percents: Sequence[float] | None = None, **options: Any) -> Mixed:
    output = options.pop("output", paths[0].parent.parent / "mixed" / "mix.pth")
    given = None if percents is None else tuple(percents)
    return mix(MixOptions(tuple(paths), output, given, **options))


def tensors(path: Path) -> dict[str, Tensor]:
    state = load_checkpoint(path)["model"]
    assert all(bool(torch.isfinite(x).all()) for x in state.values())
    return dict(state)


def same_bits(one: Tensor, two: Tensor) -> bool:
    """Equal, zeros of either sign told apart."""
    return one.dtype == two.dtype and one.numpy().tobytes() == two.numpy().tobytes()


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [VOICES.write_voice(tmp_path / name, seed=i) for i, name in enumerate("ab", 1)]


# ---- weights -------------------------------------------------------------------------------------


def test_weights() -> None:
    assert weights_of((70, 30), "normalized") == (0.7, 0.3)
    assert weights_of((7, 3), "normalized") == (0.7, 0.3)
    assert weights_of((100, 100), "normalized") == (0.5, 0.5)
    assert weights_of((1, 0), "normalized") == (1.0, 0.0)
    assert weights_of((70, 30), "linear") == (0.7, 0.3)
    assert weights_of((150, -50), "linear") == (1.5, -0.5)
    for percents in ((70, 30), (100, 100, 100), (-40, 0, 900), (1e6, 0)):
        shares = np.array(percents, dtype=np.float64) / 100
        powers = np.exp(shares - shares.max())
        assert weights_of(percents, "convex") == pytest.approx(powers / powers.sum(), rel=1e-12)
    assert weights_of((70, 30), "convex") == pytest.approx((0.598688, 0.401312), abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("percents", [(math.nan, 1), (math.inf, 1), (1, -math.inf), (1e300, 1e300)])
def test_weights_that_are_no_numbers(mode: str, percents: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="the weights are numbers in percent"):
        weights_of(percents, mode)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"inputs": (Path("a.pth"),)}, "two or more files, not 1"),
        ({"percents": (1.0,)}, "-w has 1 numbers for 2 files"),
        ({"percents": (0.0, 0.0)}, "one of the weights must not be 0"),
        ({"percents": (0.0, 0.0), "mode": "linear"}, "one of the weights must not be 0"),
        ({"percents": (2.0, -1.0)}, "shares from 0 up"),
        ({"mode": "average"}, '--mode is one of normalized, linear, convex, not "average"'),
        ({"safetensors": True}, r"--safetensors and -o x\.pth contradict"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], match: str) -> None:
    usual: dict[str, Any] = {"inputs": (Path("a.pth"), Path("b.pth")), "output": Path("x.pth")}
    with pytest.raises(ConfigError, match=match):
        MixOptions(**{**usual, **options})


# ---- tensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_tensor_is_the_weighted_sum(two: list[Path], mode: str) -> None:
    """weight_g and weight_v each for itself, as so-vits-svc 4.1 does (spec_core 8.9); ours is
    rounded once, from float64.
    """
    mixed = run(two, (80, 40), mode=mode)
    one, other = tensors(two[0]), tensors(two[1])
    result = tensors(mixed.output)
    assert list(result) == list(one)
    exact = {
        "normalized": (2 / 3, 1 / 3),
        "linear": (0.8, 0.4),
        "convex": tuple(float(x) for x in torch.tensor([0.8, 0.4], dtype=torch.float64).softmax(0)),
    }[mode]
    assert mixed.weights == pytest.approx(exact, rel=1e-12)
    for name, x in result.items():
        double = sum(w * s[name].double() for w, s in zip(mixed.weights, (one, other), strict=True))
        assert same_bits(x, double.float()), name
        # The original adds up in float32: within two roundings of it.
        single = sum(w * s[name] for w, s in zip(exact, (one, other), strict=True))
        assert torch.allclose(x, single, rtol=3e-7, atol=3e-7 * float(one[name].abs().max()))


@pytest.mark.parametrize("model", [{}, VOICES.SHARED_SNAKE])
@pytest.mark.parametrize("percents", [(100, 100), (70, 30)])
def test_a_voice_mixed_with_itself_is_itself_bit_for_bit(
    tmp_path: Path, model: dict[str, Any], percents: tuple[float, ...]
) -> None:
    zeros = {"pre.bias": torch.tensor([0.0, -0.0, 1e-40, 1, 2, 3, 4, 5])}
    path = VOICES.write_voice(tmp_path / "a", VOICES.small_config(**model), changes=zeros)
    for mode in ("normalized", "convex"):
        result = tensors(run([path, path], percents, mode=mode, force=True).output)
        assert all(same_bits(x, result[name]) for name, x in tensors(path).items())


def test_linear_one_and_zero_is_the_first(two: list[Path]) -> None:
    for percents, expected in (((100, 0), two[0]), ((0, 100), two[1])):
        result = tensors(run(two, percents, mode="linear", force=True).output)
        assert all(same_bits(x, result[name]) for name, x in tensors(expected).items())


def test_no_weights_make_nan(two: list[Path], rng: np.random.Generator) -> None:
    """Whatever weights are taken gives a finite net or is refused."""
    made = 0
    for _ in range(6):
        mode = str(rng.choice(MODES))
        percents = tuple(float(x) for x in rng.choice([0, 1e-6, 30, 100, -50, -100, 1e6], 2))
        with contextlib.suppress(ConfigError, CheckpointError):
            result = run(two, percents, mode=mode, force=True)
            made += 1
            net = load_synthesizer(result.output, load_config(result.config))
            assert all(bool(torch.isfinite(x).all()) for x in net.state_dict().values())
    assert made >= 3


def test_weights_that_cancel_are_refused(tmp_path: Path, two: list[Path]) -> None:
    with pytest.raises(CheckpointError, match=r"the mix: the tensor .*weight_v is 0 in a whole"):
        run([two[0], two[0]], (100, -100), mode="linear")
    assert not (tmp_path / "mixed").exists()


def test_shared_tensors_and_filters(tmp_path: Path) -> None:
    config = VOICES.small_config(**VOICES.SHARED_SNAKE)
    paths = [VOICES.write_voice(tmp_path / str(seed), config, seed=seed) for seed in (1, 2)]
    mixed = run(paths, (60, 60), mode="linear")
    result = tensors(mixed.output)
    filters = [name for name in result if name.endswith(".filter")]
    assert filters
    first = tensors(paths[0])
    assert all(same_bits(result[name], first[name]) for name in filters)  # not 1.2 times
    place = "in_layers.0.weight_v"
    assert result[f"flow.wn.{place}"].data_ptr() == result[f"flow.flows.0.enc.{place}"].data_ptr()
    assert all(
        x.untyped_storage().nbytes() == x.numel() * x.element_size() for x in result.values()
    )


def test_half(tmp_path: Path, two: list[Path]) -> None:
    halves = [
        VOICES.write_voice(tmp_path / name, seed=i, half=True) for i, name in enumerate("cd", 1)
    ]
    one, other = tensors(halves[0]), tensors(halves[1])
    exact = {name: 0.75 * one[name].double() + 0.25 * other[name].double() for name in one}
    full = tensors(run(halves, (3, 1)).output)
    assert all(same_bits(full[name], x.float()) for name, x in exact.items())
    half = tensors(run(halves, (3, 1), half=True, force=True).output)
    assert all(same_bits(half[name], x.half()) for name, x in exact.items())
    # One of each is mixed too, and the result is whole.
    assert tensors(run([halves[0], two[1]], force=True).output)["pre.bias"].dtype == torch.float32
    with pytest.raises(ConfigError, match=r"--half is for inputs that are all in half precision"):
        run([halves[0], two[1]], half=True, force=True)


def test_likeness(two: list[Path], tmp_path: Path) -> None:
    one = tensors(two[0])
    near = {name: x + 0.05 * x.abs().mean() * torch.randn_like(x) for name, x in one.items()}
    assert likeness(one, one) == pytest.approx(1)
    assert 0.9 < likeness(one, near) < 1
    assert abs(likeness(one, tensors(two[1]))) < 0.3
    mixed = run(two)
    assert mixed.likeness[0] == pytest.approx(1)
    assert any("little in common" in note and "b/G_8.pth" in note for note in mixed.notes)
    path = VOICES.write_voice(tmp_path / "c", changes=near)
    assert not run([two[0], path], force=True).notes


# ---- what goes with the tensors ------------------------------------------------------------------


def test_the_layout_is_the_original_ones_without_stale_moments(two: list[Path]) -> None:
    path = run(two, (70, 30)).output
    content = torch.load(path, map_location="cpu", weights_only=True)
    assert content["iteration"] == 3
    assert content["learning_rate"] == 2e-4
    config = load_config(path.with_name("config.json"))
    optimizer = torch.optim.AdamW(VOICES.small_net(config).parameters())
    optimizer.load_state_dict(content["optimizer"])
    assert content["optimizer"]["state"] == {}
    assert optimizer.param_groups[0]["lr"] == 2e-4
    # At epochs above 1 its schedulers need initial_lr (spec_core 7.5).
    torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99, last_epoch=2)
    extra = content["svc"]
    assert extra["released"] is False
    assert extra["mix"]["mode"] == "normalized"
    voices = extra["mix"]["voices"]
    assert [(v["name"], v["weight"], v["step"]) for v in voices] == [
        ("G_8.pth", 0.7, 8), ("G_8.pth", 0.3, 8),
    ]  # fmt: skip
    assert len({voice["sha256"] for voice in voices}) == 2
    assert not {"rng", "step", "epoch", "batch"} & extra.keys()


def test_safetensors(two: list[Path], tmp_path: Path) -> None:
    mixed = run(two, output=tmp_path / "m/mix.safetensors", safetensors=True)
    state, metadata = load_safetensors(mixed.output)
    assert json.loads(metadata["svc"])["svc"]["mix"]["mode"] == "normalized"
    again = run([mixed.output, mixed.output])
    assert all(same_bits(x, tensors(again.output)[name]) for name, x in state.items())


def test_without_a_posterior_encoder(tmp_path: Path, two: list[Path]) -> None:
    small = VOICES.write_voice(tmp_path / "c", seed=3, posterior=False)
    mixed = run([two[0], small])
    assert not mixed.has_posterior
    assert any("no posterior encoder" in note for note in mixed.notes)
    content = load_checkpoint(mixed.output)
    assert not any("enc_q" in name for name in content["model"])
    assert content["svc"]["released"] is True
    assert not run([small, small], force=True).notes
    assert run(two, force=True).has_posterior


def test_ranges(tmp_path: Path) -> None:
    one = VOICES.write_voice(tmp_path / "a", ranges={"alice": LOW, "bob": LOW})
    other = VOICES.write_voice(tmp_path / "b", seed=2, ranges={"alice": HIGH})
    mixed = run([one, other], (75, 25))
    expected = VoiceRange.mixed([(LOW, 0.75), (HIGH, 0.25)])
    assert mixed.ranges == {"alice": expected}
    assert find_ranges(mixed.output) == mixed.ranges
    assert any("which notes bob sings is not known" in note for note in mixed.notes)
    # What is only in the side-car counts, and a voice of weight 0 does not.
    write_ranges(other.with_name(RANGE_FILE), {"bob": LOW})
    assert run([one, other], (75, 25), force=True).ranges == {"alice": expected, "bob": LOW}
    assert run([one, other], (100, 0), force=True).ranges == {"alice": LOW, "bob": LOW}
    minus = run([one, other], (150, -50), mode="linear", force=True)
    assert not minus.ranges
    assert sum("is not known" in note for note in minus.notes) == 2


def test_two_singers_become_one(tmp_path: Path) -> None:
    paths = [
        VOICES.write_voice(
            tmp_path / name, VOICES.small_config([name]), seed=seed, ranges={name: singer}
        )
        for seed, (name, singer) in enumerate({"alice": LOW, "bob": HIGH}.items(), 1)
    ]
    with pytest.raises(
        ConfigError, match=r"has the speakers \{'alice': 0\} and .*\{'bob': 0\}.*--speakers"
    ):
        run(paths)
    mixed = run(paths, speakers=("both",))
    assert load_config(mixed.config).spk == {"both": 0}
    assert mixed.ranges == {"both": VoiceRange.mixed([(LOW, 0.5), (HIGH, 0.5)])}
    assert load_checkpoint(mixed.output)["svc"]["speakers"] == {"both": 0}
    for names in (("a", "b"), ("",)):
        with pytest.raises(ConfigError, match="--speakers needs 1 different names"):
            run(paths, speakers=names, force=True)
    # A config given for all names them too.
    given = tmp_path / "given.json"
    save_config(VOICES.small_config(["duo"]), given)
    mixed = run(paths, config=given, force=True)
    assert mixed.config.read_bytes() == given.read_bytes()
    assert mixed.ranges.keys() == {"duo"}


def test_the_config_goes_with_the_voice_and_replaces_no_other(two: list[Path]) -> None:
    folder = two[0].parent.parent / "mixed"
    text = two[0].with_name("config.json").read_text() + "\n\n"
    two[0].with_name("config.json").write_text(text)
    mixed = run(two)
    assert mixed.config == folder / "config.json"
    assert mixed.config.read_text() == text
    # An equal config stays as it is, whatever else it says.
    own = load_config(mixed.config)
    edited = dataclasses.replace(own, train=dataclasses.replace(own.train, batch_size=2))
    save_config(edited, mixed.config)
    run(two, output=folder / "second.pth")
    assert load_config(mixed.config).train.batch_size == 2
    save_config(VOICES.small_config(["carol", "dave"]), mixed.config)
    with pytest.raises(OutputError, match=r"mixed/config\.json is the config of another voice"):
        run(two, output=folder / "third.pth")
    assert not (folder / "third.pth").exists()
    run(two, output=folder / "third.pth", force=True)
    assert mixed.config.read_text() == text


def test_a_config_inside_the_file_is_enough(two: list[Path]) -> None:
    for path in two:
        path.with_name("config.json").unlink()
    mixed = run(two)
    assert load_config(mixed.config).spk == {"alice": 0, "bob": 1}


# ---- what is refused -----------------------------------------------------------------------------

OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"speech_encoder": "wavlmbase+"}, r"model\.speech_encoder 'dphubert' and 'wavlmbase\+'"),
    ({"n_speakers": 3}, r"model\.n_speakers 2 and 3"),
    ({"vol_embedding": True}, r"model\.vol_embedding False and True"),
    ({"resblock_dilation_sizes": [[1, 3, 7]]}, r"model\.resblock_dilation_sizes"),
    ({"sampling_rate": 16000}, r"model\.sampling_rate 8000 and 16000"),
]


def refused(paths: list[Path], error: type[SvcError], match: str, **options: Any) -> None:
    folder = paths[0].parent.parent
    before = sorted(str(path) for path in folder.rglob("*"))
    with pytest.raises(error, match=match) as caught:
        run(paths, **options)
    assert "\n" not in str(caught.value)
    assert sorted(str(path) for path in folder.rglob("*")) == before


@pytest.mark.parametrize(("model", "match"), OTHERS)
def test_voices_of_other_kinds(tmp_path: Path, model: dict[str, Any], match: str) -> None:
    """Also those whose tensors would fit: another encoder of the same width, other dilations."""
    usual = {"ssl_dim": 768, "speech_encoder": "dphubert"}
    one = VOICES.write_voice(tmp_path / "a", VOICES.small_config(**usual))
    other = VOICES.write_voice(tmp_path / "b", VOICES.small_config(**{**usual, **model}))
    refused([one, other], ConfigError, rf"cannot be mixed, their configs differ: .*{match}")


def test_files_that_are_no_voices(tmp_path: Path, two: list[Path]) -> None:
    refused([two[0], tmp_path / "G_9.pth"], MissingFileError, r"G_9\.pth is not there")
    save_checkpoint({"model": {"discriminators.0.weight": torch.zeros(1)}}, tmp_path / "b/D_8.pth")
    refused([two[0], tmp_path / "b/D_8.pth"], CheckpointError, "holds a discriminator")
    lacking = dict(load_checkpoint(two[1])["model"])
    del lacking["emb_uv.weight"]
    save_checkpoint({"model": lacking}, tmp_path / "b/G_1.pth")
    refused([two[0], tmp_path / "b/G_1.pth"], CheckpointError, r"missing .*: emb_uv\.weight")
    (tmp_path / "b/text.pth").write_text("no weights")
    refused([two[0], tmp_path / "b/text.pth"], CheckpointError, "not a readable checkpoint")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none(tmp_path: Path, two: list[Path], value: float) -> None:
    bad = VOICES.write_voice(tmp_path / "c", changes={"pre.bias": torch.full((8,), value)})
    refused([two[0], bad], CheckpointError, r"c/G_8\.pth: the tensor pre\.bias holds NaN")


def test_folded_and_unfolded_files(tmp_path: Path, two: list[Path]) -> None:
    """They fit one config, and are not of one kind."""
    net = load_synthesizer(two[1], load_config(two[1].with_name("config.json")))
    save_checkpoint({"model": net.state_dict()}, tmp_path / "b/folded.pth")
    match = r"do not hold the same tensors: dec\.conv_pre\.weight_g only in .*a/G_8\.pth; .*and \d+ more"
    refused([two[0], tmp_path / "b/folded.pth"], CheckpointError, match)


def test_outputs_that_are_taken(two: list[Path], tmp_path: Path) -> None:
    refused(two, ConfigError, "is to be read and written", output=two[1], force=True)
    (tmp_path / "taken.pth").write_text("mine")
    refused(two, OutputError, r"taken\.pth is there.*--force", output=tmp_path / "taken.pth")
    assert (tmp_path / "taken.pth").read_text() == "mine"


def test_no_config_anywhere(tmp_path: Path) -> None:
    paths = [VOICES.write_voice(tmp_path / name, with_config=False) for name in "ab"]
    refused(paths, MissingFileError, r"no config\.json beside .*a/G_8\.pth; .*-c")


def test_linear_weights_that_do_not_add_up_are_told(
    two: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(two, (70, 30), mode="linear")
        assert not caplog.records
        run(two, (70, 70), mode="linear", force=True)
    assert [record.message for record in caplog.records] == [
        "the weights add up to 1.4, not 1: the mix is no average, and may be noise"
    ]
