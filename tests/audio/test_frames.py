from __future__ import annotations

import numpy as np
import pytest
import torch

from svc.audio.frames import (
    EXPAND_MODES,
    expand_units,
    expand_units_array,
    random_starts,
    sequence_mask,
    slice_segments,
)
from svc.errors import ConfigError

Reference = dict[str, np.ndarray]


# ---------------------------------------------------------------- expand_units


@pytest.mark.parametrize("n", [30, 50, 87, 100, 123])
@pytest.mark.parametrize("mode", ["left", "nearest"])
def test_stretching_is_the_original(reference: Reference, mode: str, n: int) -> None:
    units = torch.from_numpy(reference["rep_in"])
    out = expand_units(units, n, mode, compat=True)
    np.testing.assert_array_equal(out.numpy(), reference[f"rep_{mode}_{n}"])


def test_indices_are_the_original(reference: Reference) -> None:
    names = [name for name in reference if name.startswith("index_")]
    assert len(names) == 10
    for name in names:
        _, mode, n_units, n_frames = name.split("_")
        units = torch.arange(float(n_units))[None]
        index = expand_units(units, int(n_frames), mode, compat=True)[0]
        np.testing.assert_array_equal(index.numpy(), reference[name])


def test_left_equals_the_moving_cursor(rng: np.random.Generator) -> None:
    """The rule as spec_encoders 3 states it, one frame at a time."""
    for n_units, n_frames in rng.integers(1, 400, (60, 2)):
        begins = (torch.arange(n_units + 1) * int(n_frames) / int(n_units)).tolist()
        cursor, expected = 0, []
        for frame in range(n_frames):
            if frame >= begins[cursor + 1]:
                cursor += 1
            expected.append(cursor)
        index = expand_units(torch.arange(float(n_units))[None], int(n_frames), "left", compat=True)
        assert index[0].tolist() == expected, (n_units, n_frames)


def test_left_spreads_all_units_when_there_are_too_many() -> None:
    units = torch.arange(100.0)[None]
    assert expand_units(units, 50, "left")[0].tolist() == list(range(0, 100, 2))
    assert expand_units(units, 50, "left", compat=True)[0].tolist() == list(range(50))


@pytest.mark.parametrize("mode", EXPAND_MODES)
@pytest.mark.parametrize("n", [1, 7, 50, 86, 200])
def test_every_mode_gives_the_length(mode: str, n: int) -> None:
    units = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    out = expand_units(units, n, mode)
    assert out.shape == (2, 3, n)
    torch.testing.assert_close(out[1], expand_units(units[1], n, mode))
    if mode in ("left", "nearest") and n >= 50:  # order is kept and no unit is skipped
        steps = expand_units(torch.arange(50.0)[None], n, mode)[0].diff()
        assert set(steps.tolist()) <= {0.0, 1.0}


def test_other_shapes_and_dtypes() -> None:
    units = torch.randn(2, 2, 3, 10, generator=torch.Generator().manual_seed(0)).half()
    for mode in ("left", "nearest"):
        out = expand_units(units, 21, mode)
        assert out.shape == (2, 2, 3, 21)
        assert out.dtype == torch.float16
    assert expand_units(units, 0, "nearest").shape == (2, 2, 3, 0)


def test_unknown_mode_names_the_config_key() -> None:
    with pytest.raises(ConfigError, match=r"unit_interpolate_mode.*left, nearest"):
        expand_units(torch.ones(1, 2, 3), 5, "bilinear")
    with pytest.raises(ValueError, match="no units"):
        expand_units(torch.ones(1, 2, 0), 5)


# ---------------------------------------------------------------- windows


def test_sequence_mask() -> None:
    mask = sequence_mask(torch.tensor([3, 0, 5]))
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [3, 0, 5]
    assert sequence_mask(torch.tensor([3]), 10).shape == (1, 10)
    assert mask[0].tolist() == [True] * 3 + [False] * 2


def test_slice_segments() -> None:
    x = torch.arange(2 * 3 * 10.0).reshape(2, 3, 10).requires_grad_()
    starts = torch.tensor([0, 6])
    out = slice_segments(x, starts, 4)
    assert torch.equal(out, torch.stack((x[0, :, :4], x[1, :, 6:])))
    assert torch.equal(slice_segments(x[:, 0], starts, 4), out[:, 0])
    out.sum().backward()
    assert x.grad is not None
    assert float(x.grad.sum()) == out.numel()


def test_random_starts_fit_and_cover() -> None:
    lengths = torch.tensor([20, 23] * 2000)
    starts = random_starts(lengths, 20, generator=torch.Generator().manual_seed(0))
    assert starts.dtype == torch.int64
    assert set(starts[0::2].tolist()) == {0}
    assert set(starts[1::2].tolist()) == {0, 1, 2, 3}


def test_random_starts_follow_the_stated_draw() -> None:
    lengths = torch.tensor([40, 33])
    starts = random_starts(lengths, 20, generator=torch.Generator().manual_seed(5))
    draw = torch.rand(2, generator=torch.Generator().manual_seed(5))
    assert torch.equal(starts, (draw * (lengths - 19)).long())
    torch.manual_seed(5)
    assert torch.equal(random_starts(lengths, 20), starts)


@pytest.mark.parametrize("mode", ["left", "nearest", "linear", "nearest-exact"])
def test_arrays_are_expanded_like_tensors(rng: np.random.Generator, mode: str) -> None:
    for n_units, n_frames in [(1, 1), (1, 7), (50, 86), (86, 50), (499, 861), (3, 0), (700, 1206)]:
        units = rng.standard_normal((5, n_units)).astype(np.float32)
        ours = expand_units_array(units, n_frames, mode)
        theirs = expand_units(torch.from_numpy(units), n_frames, mode).numpy()
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-4 if mode == "linear" else 0)


def test_arrays_have_no_mode_area() -> None:
    with pytest.raises(ConfigError, match="--backend torch"):
        expand_units_array(np.zeros((2, 3), dtype=np.float32), 5, "area")
