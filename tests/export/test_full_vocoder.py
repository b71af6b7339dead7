"""vocoder.onnx against NsfHifigan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from svc.config import VocoderConfig
from svc.export.full_examples import example_wave
from svc.export.full_vocoder import example_inputs, export_vocoder, vocoder_facts
from svc.vocoder.nsf_hifigan import NsfHifigan

LIMIT = 1e-5


def make_vocoder(kind: str) -> NsfHifigan:
    config = VocoderConfig(
        resblock="1",
        upsample_rates=(4, 4),
        upsample_kernel_sizes=(8, 8),
        upsample_initial_channel=16,
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3, 5),),
        num_mels=8,
        n_fft=256,
        win_size=256,
        hop_size=16,
        sampling_rate=8000,
        fmin=40.0,
        fmax=None,
    )
    torch.manual_seed(0)
    vocoder = NsfHifigan(config, kind=kind).eval().requires_grad_(False)
    vocoder.generator.conv_post.weight_g.mul_(10)  # an untrained net whispers
    vocoder.generator.fold()
    return vocoder


@pytest.mark.parametrize("kind", ["nsf-hifigan", "nsf-hifigan-log10"])
def test_graph_is_the_net(kind: str, tmp_path: Path) -> None:
    vocoder, path = make_vocoder(kind), tmp_path / "vocoder.onnx"
    facts = vocoder_facts(vocoder)
    assert (facts.sampling_rate, facts.hop_length, facts.n_mels) == (8000, 16, 8)
    assert (facts.fmin, facts.fmax, facts.n_harmonics) == (40.0, None, 9)
    checks = export_vocoder(vocoder, facts, tmp_path, tolerance=LIMIT, metadata={"a": "b"})
    assert list(checks) == ["mel.onnx", "vocoder.onnx"]
    session = onnxruntime.InferenceSession(path)
    names = ["mel", "f0", "source_phase", "source_noise"]
    assert [port.name for port in session.get_inputs()] == names
    for n_frames in (1, 30):
        inputs = example_inputs(facts, n_frames)
        source = vocoder.generator.m_source
        random = source.draw(
            1, n_frames, generator=torch.Generator().manual_seed(3), device=torch.device("cpu")
        )
        inputs |= {"source_phase": random.phase, "source_noise": random.noise}
        found = session.run(None, {name: x.numpy() for name, x in inputs.items()})[0]
        wanted = vocoder(
            inputs["mel"], inputs["f0"], generator=torch.Generator().manual_seed(3)
        ).numpy()
        assert found.shape == (1, 1, 16 * n_frames)
        assert np.abs(found[0] - wanted).max() <= LIMIT
    assert np.abs(wanted).max() > 0.1
    told = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert told["mel_hz"] == "40 to 4000"
    assert told["a"] == "b"


def test_mel_is_the_vocoders(tmp_path: Path) -> None:
    vocoder = make_vocoder("nsf-hifigan")
    export_vocoder(vocoder, vocoder_facts(vocoder), tmp_path, tolerance=LIMIT, metadata={})
    session = onnxruntime.InferenceSession(tmp_path / "mel.onnx")
    for n_samples in (500, 8000):
        wav = example_wave(n_samples, 8000, seed=5)
        (found,) = session.run(["mel"], {"wav": wav.numpy()})
        wanted = vocoder.mel(wav).numpy()
        assert found.shape == wanted.shape == (1, 8, n_samples // 16)
        assert np.abs(found - wanted).max() <= 10 * LIMIT
    assert session.run(["mel"], {"wav": wav[:, :16].numpy()})[0].shape == (1, 8, 1)
