from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.config import find_template, load_diffusion_config
from svc.diffusion import Unit2Mel
from svc.errors import ConfigError

Small = Callable[..., Unit2Mel]


def given(batch: int = 1, n_frames: int = 9) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(3)
    return {
        "units": torch.randn(batch, n_frames, 5, generator=made),
        "f0": 200 + 100 * torch.rand(batch, n_frames, generator=made),
        "volume": torch.rand(batch, n_frames, generator=made),
    }


def ids(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


# ---------------------------------------------------------------- names, reference outputs


@pytest.mark.parametrize("variant", ["default", "nspk1_noaug", "nspk5_aug", "nspk5_noaug"])
def test_state_dict_equals_its_table(shared: Path, variant: str) -> None:
    table = json.loads((shared / f"spec/tables/statedict_diff_{variant}.json").read_text())
    meta = table["meta"]
    with torch.device("meta"):
        net = Unit2Mel(
            meta["encoder_out_channels"],
            n_mels=meta["out_dims"],
            **{key: meta[key] for key in ("n_layers", "n_chans", "n_hidden", "n_spk")},
            use_pitch_aug=meta["use_pitch_aug"],
            timesteps=meta["timesteps"],
        )
    parameters = dict(net.named_parameters())
    rows = [
        {
            "key": key,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "kind": "parameter" if key in parameters else "buffer",
        }
        for key, tensor in net.state_dict().items()
    ]
    assert rows == table["state_dict"]
    assert sum(p.numel() for p in net.parameters()) == meta["parameter_count"]


def test_the_template_builds_the_default_net() -> None:
    with torch.device("meta"):
        net = Unit2Mel.from_config(load_diffusion_config(find_template("diffusion_template.yaml")))
    assert len(net.state_dict()) == 191
    assert sum(p.numel() for p in net.parameters()) == 55_192_704
    assert (net.timesteps, net.k_step_max, net.only_refines) == (1000, 1000, False)


def test_golden_condition(
    reference: Unit2Mel, arrays: dict[str, Any], inputs: dict[str, Tensor]
) -> None:
    assert np.abs(reference.condition(**inputs).numpy() - arrays["cond"]).max() <= 1e-6


def test_golden_loss(
    reference: Unit2Mel,
    arrays: dict[str, Any],
    inputs: dict[str, Tensor],
    clean: Tensor,
    drawn_like_a_mel: Callable[[], Tensor],
) -> None:
    torch.manual_seed(8)
    times = torch.randint(0, 1000, (1,))  # drawn first
    assert times.tolist() == arrays["train_t"].tolist()
    shift = torch.tensor([2.5]).double()
    options = {"aug_shift": shift, "times": times, "noise": drawn_like_a_mel()}
    loss = reference.loss(clean, **inputs, **options)
    assert float(loss) == pytest.approx(float(arrays["train_loss"]), rel=1e-6)


def test_golden_mix(
    reference: Unit2Mel,
    arrays: dict[str, Any],
    inputs: dict[str, Tensor],
    clean: Tensor,
    drawn_like_a_mel: Callable[[], Tensor],
) -> None:
    torch.manual_seed(5)
    mixed = {**inputs, "speaker": None, "speaker_mix": torch.tensor([[0.25, 0.75]])}
    found = reference.infer(**mixed, mel=clean, k_step=100, noise=drawn_like_a_mel())
    assert np.abs(found.mT.numpy() - arrays["mix_dpmpp_k100_s10"]).max() <= 1e-5


# ---------------------------------------------------------------- the condition


def test_all_of_one_speaker_is_that_speaker_bit_for_bit(small: Small) -> None:
    net = small()
    plain = net.condition(**given(2), speaker=ids(1, 1))
    for mix in (torch.eye(3)[1:2], torch.eye(3)[[1] * 9], torch.eye(2)[1:2]):
        assert torch.equal(net.condition(**given(2), speaker_mix=mix), plain)


def test_a_mix_may_change_from_frame_to_frame(small: Small) -> None:
    net = small()
    alone = [net.condition(**given(), speaker=ids(i)) for i in range(3)]
    mix = torch.eye(3)[[0] * 4 + [2] * 5]
    found = net.condition(**given(), speaker_mix=mix)
    assert torch.equal(found, torch.cat([alone[0][..., :4], alone[2][..., 4:]], dim=2))
    half = net.condition(**given(), speaker_mix=torch.full((9, 3), 0.5))
    # Weights are not normalised: 1.5 speakers here.
    nobody = net.condition(**given(), speaker_mix=torch.zeros(1, 3))
    torch.testing.assert_close(half - nobody, sum(a - nobody for a in alone) / 2)


def test_a_single_speaker_is_not_asked_for(small: Small) -> None:
    net = small(n_spk=1)
    plain = net.condition(**given())
    assert torch.equal(net.condition(**given(), speaker=ids(7)), plain)
    assert torch.equal(net.condition(**given(), speaker_mix=torch.ones(1, 4)), plain)
    with pytest.raises(ValueError, match="3 speakers: give one"):
        small().condition(**given())


def test_the_pitch_shift_of_a_clip_is_told_in_fifths_of_a_semitone(small: Small) -> None:
    net = small(n_spk=1)
    shifts = torch.tensor([2.5, -5.0])
    found = net.condition(**given(2), aug_shift=shifts) - net.condition(**given(2))
    assert net.aug_shift_embed is not None
    weight = net.aug_shift_embed.weight[:, 0]
    expected = torch.stack([0.5 * weight, -1 * weight])[..., None].expand_as(found)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    untold = small(n_spk=1, use_pitch_aug=False)
    assert torch.equal(untold.condition(**given(2), aug_shift=shifts), untold.condition(**given(2)))


# ---------------------------------------------------------------- training


def test_loss_draws_times_then_noise_and_nothing_from_the_global_generator(small: Small) -> None:
    net = small(k_step_max=40)
    mel = torch.randn(2, 6, 9)
    state = torch.get_rng_state()
    found = net.loss(mel, **given(2), speaker=ids(0, 2), generator=torch.Generator().manual_seed(4))
    assert torch.equal(torch.get_rng_state(), state)
    again = torch.Generator().manual_seed(4)
    times = torch.randint(0, 40, (2,), generator=again)
    noise = torch.randn(2, 1, 6, 9, generator=again)
    by_hand = net.loss(mel, **given(2), speaker=ids(0, 2), times=times, noise=noise)
    assert torch.equal(found, by_hand)


def test_every_parameter_learns(small: Small) -> None:
    net = small().train()
    loss = net.loss(torch.randn(3, 6, 9), **given(3), speaker=ids(0, 1, 2), aug_shift=torch.ones(3))
    loss.backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_training_lowers_the_loss(small: Small) -> None:
    net = small(n_spk=1).train()
    mel, noise = torch.randn(2, 2, 6, 9).unbind()
    fixed = {"times": ids(30, 80), "noise": noise[:, None]}
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = net.loss(mel - 5, **given(2), **fixed)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# ---------------------------------------------------------------- inference


@pytest.mark.parametrize("method", ["ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc"])
def test_items_of_a_batch_do_not_touch_each_other(small: Small, method: str) -> None:
    net = small().double()
    inputs = {name: x.double() for name, x in given(2).items()}
    mel, noise = torch.randn(2, 6, 9).double() - 5, torch.randn(2, 1, 6, 9)
    made = {"method": method, "k_step": 40, "speedup": 8}
    both = net.infer(**inputs, speaker=ids(0, 1), mel=mel, noise=noise, **made)
    for i in range(2):
        one = {name: x[i : i + 1] for name, x in inputs.items()}
        alone = net.infer(**one, speaker=ids(i), mel=mel[i : i + 1], noise=noise[i : i + 1], **made)
        torch.testing.assert_close(both[i : i + 1], alone)


@pytest.mark.parametrize("refines", [False, True])
def test_the_same_seed_is_the_same_mel(small: Small, refines: bool) -> None:
    net = small()
    mel = torch.randn(1, 6, 9) - 5 if refines else None
    state = torch.get_rng_state()
    made = [
        net.infer(
            **given(),
            speaker=ids(0),
            mel=mel,
            k_step=20,
            method="ddpm",
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_without_a_mel_all_steps_are_taken_whatever_k_step(small: Small) -> None:
    net = small()
    noise = torch.randn(1, 1, 6, 9)
    some = net.infer(**given(), speaker=ids(0), k_step=20, noise=noise)
    assert torch.equal(some, net.infer(**given(), speaker=ids(0), k_step=90, noise=noise))


def test_fewer_steps_stay_nearer_to_the_mel(small: Small) -> None:
    net = small()
    mel = torch.randn(1, 6, 9) - 5
    away = [
        net.infer(
            **given(), speaker=ids(0), mel=mel, k_step=k, method="ddim", speedup=2,
            generator=torch.Generator().manual_seed(0),
        )
        for k in (1, 10, 90)
    ]  # fmt: skip
    steps = [float((a - mel).abs().mean()) for a in away]
    assert steps == sorted(steps)
    assert steps[0] < 0.2 < steps[2]


def test_the_range_of_mels_is_that_of_the_checkpoint(small: Small) -> None:
    net = small()
    mel = torch.randn(2, 6, 9) - 5
    decoder = net.decoder
    assert float(decoder.normalize(torch.full((1, 6, 9), -12.0)).unique()) == -1
    assert float(decoder.normalize(torch.full((1, 6, 9), 2.0)).unique()) == 1
    assert decoder.normalize(torch.full((1, 6, 9), 9.0)).max() > 1  # nothing is clipped
    decoder.spec_min.fill_(-4)
    decoder.spec_max = torch.linspace(0, 5, 6)[None, None]  # for each band
    x = decoder.normalize(mel)
    assert x.shape == (2, 1, 6, 9)
    torch.testing.assert_close(decoder.denormalize(x), mel)
    torch.testing.assert_close(x[:, 0, 5], (mel[:, 5] + 4) / 9 * 2 - 1)


def test_what_cannot_work_is_said_before_any_work(small: Small) -> None:
    net = small(k_step_max=40)
    assert net.only_refines
    assert net.check_infer("ddim", k_step=40, speedup=10) == 40
    assert small().check_infer("ddim", k_step=None, speedup=10) == 100
    mel = torch.zeros(1, 6, 9)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"mel": mel, "k_step": 41}, "k_step 41 is more .* use 40"),
        ({}, "knows only the last 40 of 100 steps"),
        ({"mel": mel, "k_step": 15}, "k_step 15 with infer.speedup 10 makes 1 step"),
        ({"mel": mel, "k_step": 0}, "k_step is 0"),
        ({"mel": mel, "k_step": 40, "method": "euler"}, '"euler" is unknown'),
        ({"mel": mel, "k_step": 40, "speaker": ids(3)}, "speaker id 3: .* ids 0 to 2"),
        ({"mel": mel, "k_step": 40, "speaker_mix": torch.ones(1, 4)}, "speaker id 3"),
    ]
    for options, words in cases:
        with pytest.raises(ConfigError, match=words) as caught:
            net.infer(**{**given(), "speaker": ids(0), **options})
        assert "\n" not in str(caught.value)
