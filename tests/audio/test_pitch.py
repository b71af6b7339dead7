from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from svc.audio.pitch import (
    F0Track,
    cents,
    f0_to_coarse,
    f0_to_lf0,
    interpolate_unvoiced,
    lf0_to_f0,
    normalize_lf0,
    resize_linear,
    resize_nearest,
    transpose,
)

Reference = dict[str, np.ndarray]
fill_gaps = partial(interpolate_unvoiced, hop_length=512, sr=44100)


# ---------------------------------------------------------------- gaps


@pytest.mark.parametrize("name", ["rmvpe", "fcpe"])
def test_post_processing_is_the_original_to_the_bit(reference: Reference, name: str) -> None:
    raw = reference["rmvpe_decoded" if name == "rmvpe" else "fcpe_raw"]
    expected = reference[f"{name}_f0"]
    f0, uv = fill_gaps(resize_nearest(raw, len(expected)))
    np.testing.assert_array_equal(f0, expected)
    np.testing.assert_array_equal(uv, reference[f"{name}_uv"])


def test_gap_filling() -> None:
    f0 = np.array([0, 0, 100, 0, 0, 0, 200, 150, 0], dtype=np.float32)
    filled, uv = fill_gaps(f0)
    np.testing.assert_allclose(filled, [100, 100, 100, 125, 150, 175, 200, 150, 150])
    np.testing.assert_array_equal(uv, [0, 0, 1, 0, 0, 0, 1, 1, 0])
    assert uv.dtype == np.float32
    coarse_times, _ = fill_gaps(f0, times="float32")
    np.testing.assert_allclose(coarse_times, filled, atol=2e-4)


def test_one_voiced_frame() -> None:
    f0 = np.array([0.0, 0.0, 300.0, 0.0])
    filled, uv = fill_gaps(f0)
    np.testing.assert_array_equal(filled, 300.0)
    np.testing.assert_array_equal(uv, [0, 0, 1, 0])
    np.testing.assert_array_equal(fill_gaps(f0, compat=True)[0], 0.0)
    first = np.array([300.0, 0.0])
    np.testing.assert_array_equal(fill_gaps(first, compat=True)[0], 300.0)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_nothing_voiced(n: int) -> None:
    filled, uv = fill_gaps(np.zeros(n))
    np.testing.assert_array_equal(filled, np.zeros(n))
    np.testing.assert_array_equal(uv, np.zeros(n))


def test_input_is_not_changed() -> None:
    f0 = np.array([0.0, 100.0, 0.0, 200.0])
    kept = f0.copy()
    fill_gaps(f0)
    resize_linear(f0, 7)
    transpose(f0, 3)
    np.testing.assert_array_equal(f0, kept)


# ---------------------------------------------------------------- resizing


def test_resize_nearest_equals_torch(rng: np.random.Generator) -> None:
    for source, target in rng.integers(1, 4000, (300, 2)):
        track = np.arange(source, dtype=np.float32)
        expected = F.interpolate(torch.from_numpy(track)[None, None], size=int(target))[0, 0]
        np.testing.assert_array_equal(resize_nearest(track, int(target)), expected.numpy())


def test_resize_linear() -> None:
    voiced = np.array([100.0, 110.0, 120.0, 130.0])
    np.testing.assert_allclose(resize_linear(voiced, 4), voiced)
    np.testing.assert_allclose(resize_linear(voiced, 8), [100, 105, 110, 115, 120, 125, 130, 130])
    gap = np.array([100.0, 0.0, 120.0, 130.0])
    # Strictly between a voiced and an unvoiced frame is unvoiced; on a voiced frame it is not.
    np.testing.assert_allclose(resize_linear(gap, 8), [100, 0, 0, 0, 120, 125, 130, 130])


@pytest.mark.parametrize("n", [0, 5])
def test_resize_of_and_to_nothing(n: int) -> None:
    assert resize_nearest(np.ones(3), n).shape == (n,)
    assert resize_linear(np.ones(3), n).shape == (n,)
    np.testing.assert_array_equal(resize_linear(np.zeros(0), n), np.zeros(n))


# ---------------------------------------------------------------- scales


def test_coarse_compat_is_the_original(reference: Reference) -> None:
    index = f0_to_coarse(torch.from_numpy(reference["coarse_in"]), compat=True)
    np.testing.assert_array_equal(index.numpy(), reference["coarse_out"])
    assert index.dtype == torch.int64


def test_coarse_is_clamped_above(reference: Reference) -> None:
    f0 = torch.from_numpy(reference["coarse_in"])
    index, original = f0_to_coarse(f0), f0_to_coarse(f0, compat=True)
    assert torch.equal(index[original > 0], original[original > 0])
    assert (index[original == 0] == 255).all()
    assert (original == 0).any()


def test_coarse_table() -> None:
    f0 = torch.tensor([0.0, 51.29, 100, 220, 440, 880, 1100, 1103.2, 5000, float("inf"), -800])
    assert f0_to_coarse(f0).tolist() == [1, 1, 20, 60, 122, 217, 255, 255, 255, 255, 1]


def test_coarse_never_falls_as_pitch_rises() -> None:
    index = f0_to_coarse(torch.linspace(0, 3000, 30001))
    assert (index.diff() >= 0).all()
    assert sorted(set(index.tolist())) == list(range(1, 256))


def test_coarse_of_half_precision() -> None:
    assert f0_to_coarse(torch.tensor([440.0], dtype=torch.float16)).item() == 122


def test_lf0_round_trip() -> None:
    f0 = torch.linspace(0, 1200, 500, dtype=torch.float64)
    torch.testing.assert_close(lf0_to_f0(f0_to_lf0(f0)), f0, atol=1e-9, rtol=0)
    assert float(f0_to_lf0(torch.tensor(700.0))) == pytest.approx(2595 * np.log10(2) / 500)


def test_normalize_lf0() -> None:
    generator = torch.Generator().manual_seed(0)
    lf0 = torch.rand(2, 1, 50, generator=generator) + 2
    uv = (torch.rand(2, 50, generator=generator) > 0.4).float()
    mask = torch.ones(2, 1, 50)
    mask[1, :, 40:] = 0
    out = normalize_lf0(lf0, uv, mask)
    mean = (out[0, 0] * uv[0]).sum() / uv[0].sum()
    assert abs(float(mean)) < 1e-6
    assert (out[1, :, 40:] == 0).all()
    assert torch.equal(out, normalize_lf0(lf0, uv[:, None], mask))
    factor = torch.tensor([[0.8], [1.2]])
    torch.testing.assert_close(normalize_lf0(lf0, uv, mask, factor), out * factor[:, :, None])


def test_normalize_lf0_without_a_voiced_frame() -> None:
    lf0 = torch.full((1, 1, 5), 2.0)
    out = normalize_lf0(lf0, torch.zeros(1, 5), torch.ones(1, 1, 5))
    assert torch.equal(out, lf0)


def test_transpose_and_cents() -> None:
    f0 = np.array([0.0, 220.0, 440.0])
    np.testing.assert_allclose(transpose(f0, 12), 2 * f0)
    np.testing.assert_allclose(transpose(transpose(f0, 3.7), -3.7), f0)
    assert torch.equal(transpose(torch.tensor([100.0]), 12), torch.tensor([200.0]))
    away = cents(transpose(f0, 0.5), f0)
    assert np.isnan(away[0])
    np.testing.assert_allclose(away[1:], 50.0)


# ---------------------------------------------------------------- track


def test_track() -> None:
    track = F0Track(np.array([100.0, 200.0]), np.array([1, 0]))
    assert track.f0.dtype == track.uv.dtype == np.float32
    assert len(track) == 2
    with pytest.raises(ValueError, match="must both"):
        F0Track(np.zeros(3, np.float32), np.zeros(2, np.float32))
