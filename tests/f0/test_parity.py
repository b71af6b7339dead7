"""The original's numbers: spec_f0 sections 3-5, 8 and 12."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from svc.audio.pitch import cents
from svc.audio.resample import sinc_resample
from svc.f0 import build_f0_predictor
from svc.f0.fcpe import FcpePredictor
from svc.f0.fcpe_net import load_fcpe
from svc.f0.settings import F0Settings


@pytest.mark.parametrize("name", ["pm", "dio", "harvest"])
def test_classic_predictors(golden: Path, name: str) -> None:
    """In compat mode not a bit differs from the stored arrays as float32.

    By default frame times are not rounded to float32 before interpolating; that moves values by up
    to 7e-4 Hz.
    """
    arrays = np.load(golden / "golden_f0_predictors.npz")
    expected = arrays[f"{name}_f0"].astype(np.float32)
    exact = build_f0_predictor(name, compat=True)(arrays["wav44k"])
    np.testing.assert_array_equal(exact.f0, expected)
    np.testing.assert_array_equal(exact.uv, arrays[f"{name}_uv"])
    default = build_f0_predictor(name)(arrays["wav44k"])
    np.testing.assert_array_equal(default.uv, arrays[f"{name}_uv"])
    np.testing.assert_allclose(default.f0, expected, atol=1e-3, rtol=0)


def test_fcpe_of_so_vits_svc(golden: Path) -> None:
    """Performer form. Mel: 1e-5 (measured 0). Pitch: 0.01 cents.

    Measured 9.2e-4 Hz at 659 Hz, 0.0024 cents; the stored float32 values are themselves 5.6e-4 Hz
    from those of the same net in double precision.
    """
    arrays = np.load(golden / "golden_enc_tiny_fcpe.npz")
    net, mel = load_fcpe(golden / "golden_enc_tiny_fcpe.pt")
    assert net.config.attention_dim == 512
    predictor = FcpePredictor(net, mel, F0Settings(compat=True))
    wave = torch.from_numpy(arrays["wav44k"])[None]
    ours = mel(sinc_resample(wave, 44100, 16000, lowpass_width=128)).transpose(1, 2)
    # The quietest bands hold nothing but the rounding noise of the resampler, so compare energies,
    # not their logarithms.
    np.testing.assert_allclose(ours.exp().numpy(), np.exp(arrays["mel"]), atol=1e-5, rtol=1e-5)
    raw = predictor.raw_f0(arrays["wav44k"])
    np.testing.assert_array_equal(raw > 0, arrays["raw"] > 0)
    assert np.nanmax(np.abs(cents(raw, arrays["raw"]))) < 0.01
    track = predictor(arrays["wav44k"])
    np.testing.assert_array_equal(track.uv, arrays["uv"])
    assert np.nanmax(np.abs(cents(track.f0, arrays["f0"]))) < 0.01


def test_fcpe_of_the_torchfcpe_package(data_dir: Path) -> None:
    """Convolutional form: salience equal to the package's own net (recorded with torchfcpe 0.0.4;
    limit 1e-6).
    """
    arrays = np.load(data_dir / "fcpe_bundled.npz")
    predictor = build_f0_predictor("fcpe")
    assert isinstance(predictor, FcpePredictor)
    assert predictor._net.config.attention_dim == 0
    with torch.no_grad():
        salience = predictor._net(torch.from_numpy(arrays["mel"]).transpose(1, 2))
    np.testing.assert_allclose(salience.numpy(), arrays["salience"], atol=1e-6, rtol=0)
