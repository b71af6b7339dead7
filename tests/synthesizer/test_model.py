from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.errors import ConfigError
from svc.synthesizer import Synthesizer, SynthesizerOutput

MakeNet = Callable[..., Synthesizer]
Inputs = Callable[..., dict[str, Tensor]]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"vol_embedding": True},
    {"use_automatic_f0_prediction": False},
    {"vocoder_name": "nsf-snake-hifigan"},
    {"use_transformer_flow": True},
    {"flow_share_parameter": True, "use_depthwise_conv": True, "resblock": "2"},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_forward_shapes_and_gradients(
    make_net: MakeNet, make_batch: Inputs, changes: dict[str, Any]
) -> None:
    net = make_net(**changes).train()
    inputs = make_batch(net)
    out: SynthesizerOutput = net(**inputs)
    assert out.wav.shape == (2, 1, 64)
    assert out.mask.shape == (2, 1, 20)
    assert out.mask.sum(dim=2).flatten().tolist() == [20, 13]
    for name in ("z", "z_p", "m_p", "logs_p", "m_q", "logs_q"):
        value = getattr(out, name)
        assert value.shape == (2, 8, 20)
        assert value[1, :, 13:].abs().max() == 0, name
    assert (out.starts >= 0).all()
    assert (out.starts + 4 <= inputs["lengths"]).all()
    parts = [out.wav, out.z_p, out.logs_q, out.m_p, out.logs_p]
    if net.has_auto_f0:
        assert out.pred_lf0 is not None
        assert out.pred_lf0.shape == (2, 1, 20)
        parts.append(out.pred_lf0)
    else:
        assert out.pred_lf0 is out.norm_lf0 is out.lf0 is None
    sum(part.square().sum() for part in parts).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_forward_draws_from_the_generator_or_the_global_one(
    make_net: MakeNet, make_batch: Inputs
) -> None:
    net = make_net()
    inputs = make_batch(net)
    torch.manual_seed(3)
    by_global = net(**inputs)
    state = torch.get_rng_state()
    by_private = net(**inputs, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    for field in dataclasses.fields(by_global):
        assert torch.equal(getattr(by_global, field.name), getattr(by_private, field.name))


def test_no_gradient_goes_from_predicted_pitch_into_the_content(
    make_net: MakeNet, make_batch: Inputs
) -> None:
    net = make_net()
    out = net(**make_batch(net))
    assert out.pred_lf0 is not None
    out.pred_lf0.square().sum().backward()
    assert net.pre.weight.grad is None
    assert net.emb_uv.weight.grad is None
    assert net.emb_g.weight.grad is not None


def test_padding_changes_nothing_inside_a_clip(make_net: MakeNet, make_batch: Inputs) -> None:
    net = make_net()
    inputs = make_batch(net)
    inputs["units"][1, :, 13:] = 0  # as batches are padded; five frames wide, `pre` sees it
    short = {name: value[1:] for name, value in inputs.items()}
    for name in ("units", "f0", "uv", "spec"):
        short[name] = short[name][..., :13]
    garbage = {**inputs, "spec": inputs["spec"].clone()}
    garbage["spec"][1, :, 13:] = 7.0
    with torch.no_grad():
        alone, padded = net(**short), net(**garbage)
    for name in ("m_p", "logs_p", "m_q", "logs_q"):
        found, expected = getattr(padded, name)[1:, :, :13], getattr(alone, name)
        assert torch.allclose(found, expected, atol=1e-5), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_autocast_trains(make_net: MakeNet, make_batch: Inputs, dtype: torch.dtype) -> None:
    net = make_net(vol_embedding=True).train()
    inputs = make_batch(net)
    with torch.autocast("cpu", dtype=dtype):
        out = net(**inputs)
    for field in dataclasses.fields(out):
        value = getattr(out, field.name)
        if value.is_floating_point():
            assert torch.isfinite(value).all(), field.name
    assert out.logs_p.dtype == out.z_p.dtype == torch.float32
    out.wav.float().square().sum().backward()
    grads = [p.grad for p in net.dec.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("changes", VARIANTS)
def test_autocast_stays_close_to_float32(
    make_net: MakeNet, voice: Inputs, changes: dict[str, Any]
) -> None:
    net = make_net(**changes)
    inputs = voice(net)
    expected, _ = net.infer(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = net.infer(**inputs)
    assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max() + 1e-3


@pytest.mark.parametrize("changes", VARIANTS)
def test_infer_in_bfloat16_weights(
    make_net: MakeNet, voice: Inputs, changes: dict[str, Any]
) -> None:
    net = make_net(**changes)
    inputs = voice(net)
    wav, f0 = net.to(torch.bfloat16).infer(**inputs)
    assert torch.isfinite(wav).all()
    assert torch.equal(f0, inputs["f0"])  # pitch is never rounded to half precision


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("n_frames", [1, 3, 12])
def test_infer(make_net: MakeNet, voice: Inputs, changes: dict[str, Any], n_frames: int) -> None:
    net = make_net(**changes)
    inputs = voice(net, n_frames)
    state = torch.get_rng_state()
    wav, f0 = net.infer(**inputs)
    assert wav.shape == (1, 1, n_frames * net.hop_length)
    assert torch.equal(f0, inputs["f0"])
    assert torch.equal(net.infer(**inputs)[0], wav)
    assert not torch.equal(net.infer(**inputs, seed=1)[0], wav)
    assert torch.equal(torch.get_rng_state(), state)
    assert not wav.requires_grad
    if net.has_auto_f0:
        other, predicted = net.infer(**inputs, predict_f0=True)
        assert predicted.shape == f0.shape
        assert not torch.equal(other, wav)


def test_folding_changes_nothing(make_net: MakeNet, voice: Inputs) -> None:
    net = make_net(flow_share_parameter=True, use_depthwise_conv=True)
    inputs = voice(net)
    before, _ = net.infer(**inputs)
    net.fold_weight_norm()
    after, _ = net.infer(**inputs)
    assert torch.equal(before, after)
    assert not any(name.endswith("weight_g") for name in net.state_dict())


def test_a_mix_of_one_is_the_speaker(make_net: MakeNet, voice: Inputs) -> None:
    net = make_net()
    inputs = voice(net)
    del inputs["speaker"]
    alone, _ = net.infer(**inputs, speaker=torch.tensor([2]))
    one_hot = torch.zeros(12, 3)
    one_hot[:, 2] = 1
    mixed, _ = net.infer(**inputs, speaker=None, speaker_mix=one_hot)
    assert torch.allclose(mixed, alone, atol=1e-5)
    constant, _ = net.infer(**inputs, speaker=None, speaker_mix=one_hot[:1])
    assert torch.allclose(constant, alone, atol=1e-5)
    half = torch.full((12, 2), 0.5)
    blended, _ = net.infer(**inputs, speaker=None, speaker_mix=half, predict_f0=True)
    assert blended.shape == alone.shape


def test_a_changing_mix_acts_where_it_changes(make_net: MakeNet, voice: Inputs) -> None:
    net = make_net(use_automatic_f0_prediction=False)
    inputs = voice(net, 60)
    del inputs["speaker"]
    first = torch.zeros(60, 3)
    first[:, 0] = 1
    later = first.clone()
    later[50:] = torch.tensor([0.0, 1.0, 0.0])
    a, b = (net.infer(**inputs, speaker=None, speaker_mix=mix)[0] for mix in (first, later))
    difference = (a - b).abs()[0, 0].unflatten(0, (60, 16)).amax(dim=1)
    assert difference[:10].max() < 1e-5
    assert difference[50:].max() > 1e-4


def test_speaker_ids_may_have_a_second_axis(make_net: MakeNet, voice: Inputs) -> None:
    net = make_net()
    inputs = voice(net)
    wav, _ = net.infer(**inputs)
    inputs["speaker"] = inputs["speaker"][:, None]
    assert torch.equal(net.infer(**inputs)[0], wav)


def test_wrong_calls_say_what_is_wrong(make_net: MakeNet, voice: Inputs) -> None:
    net = make_net(vol_embedding=True, use_automatic_f0_prediction=False)
    inputs = voice(net)
    with pytest.raises(ConfigError, match="use_automatic_f0_prediction is false; leave out"):
        net.infer(**inputs, predict_f0=True)
    with pytest.raises(ValueError, match="pass volume"):
        net.infer(**{**inputs, "volume": None})
    with pytest.raises(ValueError, match="5 rows for 12 frames"):
        net.infer(**{**inputs, "speaker": None}, speaker_mix=torch.ones(5, 3))
    with pytest.raises(ValueError, match="4 columns, the net 3 speakers"):
        net.infer(**{**inputs, "speaker": None}, speaker_mix=torch.ones(12, 4))
    with pytest.raises(ValueError, match="speaker ids or a speaker mix"):
        net.infer(**{**inputs, "speaker": None})


def test_noise_scale_zero_leaves_only_the_source_random(make_net: MakeNet, voice: Inputs) -> None:
    net = make_net()
    inputs = voice(net)
    noise = [net.draw_noise(1, 12, seed=seed, device=torch.device("cpu")) for seed in (1, 2)]
    mixed = dataclasses.replace(noise[0], prior=noise[1].prior)
    speaker = inputs.pop("speaker")
    with torch.no_grad():
        g = net.speaker_condition(speaker)
        a, b = (
            net.synthesize(**inputs, g=g, noise=n, noise_scale=0.0, predict_f0=False, volume=None)[
                0
            ]
            for n in (noise[0], mixed)
        )
    assert torch.equal(a, b)


def test_high_pitch_is_clamped_unless_compatible(make_net: MakeNet, voice: Inputs) -> None:
    """f0 above 1103 Hz wraps into bin 0 of the original (spec_core M1)."""
    ours, theirs = make_net(), make_net(compat=True)
    inputs = voice(ours)
    speaker = ours.speaker_condition(inputs["speaker"])
    assert speaker.shape == (1, 12, 1)
    low = ours.infer(**inputs)[0] - theirs.infer(**inputs)[0]
    inputs["f0"] = torch.full_like(inputs["f0"], 1500.0)
    high = ours.infer(**inputs)[0] - theirs.infer(**inputs)[0]
    assert low.abs().max() < 1e-4
    assert high.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("data_rate", "model_rate", "compat", "expected", "warns"),
    [
        (44100, None, False, 44100, False),
        (32000, None, False, 32000, True),
        (32000, None, True, 44100, False),
        (32000, 44100, False, 44100, False),
    ],
)
def test_sampling_rate_of_the_source(
    make_config: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    data_rate: int,
    model_rate: int | None,
    compat: bool,
    expected: int,
    warns: bool,
) -> None:
    changes = {} if model_rate is None else {"sampling_rate": model_rate}
    with caplog.at_level(logging.WARNING):
        net = Synthesizer.from_config(make_config(data_rate, **changes), compat=compat)
    assert net.dec.m_source.sampling_rate == net.sampling_rate == expected
    assert ("harmonic source" in caplog.text) == warns


def test_hop_length_must_be_the_product_of_the_rates(make_config: Callable[..., Any]) -> None:
    config = make_config()
    with pytest.raises(ConfigError, match=r"\(16\) must equal \"data.hop_length\" \(32\)"):
        Synthesizer(config.model, spec_channels=33, segment_frames=4, hop_length=32)


def test_compat_consumes_the_same_draws_as_the_original(
    make_net: MakeNet, make_batch: Inputs
) -> None:
    """The (B, N, 1) noise that is drawn and dropped: the global stream ends where theirs does."""
    net = make_net(compat=True)
    inputs = make_batch(net)
    torch.manual_seed(1)
    net(**inputs)
    found = torch.rand(1)
    torch.manual_seed(1)
    torch.rand(2, 1)
    torch.randn(2, 8, 20)
    torch.randn(2, 8, 20)
    torch.rand(2)
    torch.rand(2, 9)
    torch.randn(2, 64, 9)
    torch.randn(2, 64, 1)
    assert torch.equal(found, torch.rand(1))
