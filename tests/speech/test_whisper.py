"""Whisper's encoder: parity, the bundled weights on real speech, long audio."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.checkpoint import load_safetensors, save_safetensors
from svc.errors import AudioError, CheckpointError
from svc.pretrained import WHISPER_TINY_ASSET_SHA256, whisper_tiny_asset
from svc.speech import build_speech_encoder
from svc.speech.base import SpeechEncoder
from svc.speech.chunks import plan_windows
from svc.speech.whisper import (
    WINDOW_FRAMES,
    Whisper,
    WhisperEncoder,
    infer_config,
    load_whisper,
    own_name,
)

logger = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SpeechEncoder:
    return build_speech_encoder(
        "whisper-ppg-tiny", pretrain_dir=tmp_path_factory.mktemp("empty_pretrain")
    )


def small_whisper(
    dim: int = 128, layers: int = 2, n_mels: int = 80, seed: int = 0
) -> dict[str, Tensor]:
    """Tensors of an encoder under OpenAI's names; shapes of a table of the real models, scaled."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (1500, dim),
        "conv1.weight": (dim, n_mels, 3),
        "conv1.bias": (dim,),
        "conv2.weight": (dim, dim, 3),
        "conv2.bias": (dim,),
        "ln_post.weight": (dim,),
        "ln_post.bias": (dim,),
    }
    for i in range(layers):
        block = f"blocks.{i}"
        shapes |= {
            f"{block}.attn.{part}.weight": (dim, dim) for part in ("query", "key", "value", "out")
        }
        shapes |= {f"{block}.attn.{part}.bias": (dim,) for part in ("query", "value", "out")}
        shapes |= {f"{block}.mlp.0.weight": (4 * dim, dim), f"{block}.mlp.0.bias": (4 * dim,)}
        shapes |= {f"{block}.mlp.2.weight": (dim, 4 * dim), f"{block}.mlp.2.bias": (dim,)}
        shapes |= {
            f"{block}.{ln}.{p}": (dim,) for ln in ("attn_ln", "mlp_ln") for p in ("weight", "bias")
        }
    return {
        f"encoder.{name}": torch.randn(shape, generator=generator) * 0.1
        for name, shape in shapes.items()
    }


def hugging_face_name(name: str) -> str:
    """OpenAI's name -> Hugging Face's."""
    for ours, theirs in (
        ("encoder.positional_embedding", "encoder.embed_positions.weight"),
        ("ln_post", "layer_norm"),
        ("blocks", "layers"),
        ("attn_ln", "self_attn_layer_norm"),
        ("mlp_ln", "final_layer_norm"),
        ("mlp.0", "fc1"),
        ("mlp.2", "fc2"),
        ("attn.query", "self_attn.q_proj"),
        ("attn.key", "self_attn.k_proj"),
        ("attn.value", "self_attn.v_proj"),
        ("attn.out", "self_attn.out_proj"),
    ):
        name = name.replace(ours, theirs)
    return f"model.{name}"


def test_parity_with_openai(golden: Path, assert_same_energies: Callable[..., None]) -> None:
    """Spec_encoders 13: within 1e-5 (measured 3.6e-7), from a half-precision file with 32 channels
    per head.
    """
    arrays = np.load(golden / "golden_enc_tiny_whisper.npz")
    encoder = WhisperEncoder(load_whisper(golden / "golden_enc_tiny_whisper.pt"), name="x")
    units = encoder.encode(torch.from_numpy(arrays["wav16k"]))
    np.testing.assert_allclose(units[0].T.numpy(), arrays["ppg"], atol=1e-5, rtol=0)
    assert units.shape == (1, 64, 65)
    wav = torch.zeros(480_000)
    wav[: len(arrays["wav16k"])] = torch.from_numpy(arrays["wav16k"])
    mel = encoder._mel(wav[None].double())
    assert mel.shape == (1, 80, 3000)
    expected = torch.from_numpy(arrays["mel_first_400"])
    # x = (log10 + 4) / 4, so a rounding of x by 2e-7 is one of the energy by 9.2 times that.
    assert_same_energies(mel[..., :400], expected[None], base=1e4, limit=4e-6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [("medium", (80, 1500, 1024, 16, 24)), ("large-v2", (80, 1500, 1280, 20, 32))],
)
def test_key_tables_of_the_real_sizes(shared: Path, size: str, expected: tuple[int, ...]) -> None:
    table = json.loads(
        (shared / "spec" / "tables" / f"statedict_enc_whisper_{size}.json").read_text()
    )
    with torch.device("meta"):
        state = {
            own_name(name): torch.empty(shape)
            for name, shape in table["shapes"].items()
            if name.startswith("encoder.")
        }
        config = infer_config(state, {})
        net = Whisper(config)
    assert {name: t.shape for name, t in state.items()} == {
        name: t.shape for name, t in net.state_dict().items()
    }
    assert (
        config.n_mels,
        config.n_positions,
        config.dim,
        config.n_heads,
        config.n_layers,
    ) == expected


def test_only_wanted_frames_are_finished_and_nothing_changes(golden: Path) -> None:
    net = load_whisper(golden / "golden_enc_tiny_whisper.pt")
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(mel, 65), net(mel, 1500)[:, :65], atol=1e-5, rtol=0)


def test_the_bundled_file_is_the_recorded_one() -> None:
    path = whisper_tiny_asset()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == WHISPER_TINY_ASSET_SHA256
    assert path.stat().st_size < 17_000_000
    licence = path.with_name("LICENSE-whisper.txt").read_text(encoding="utf-8")
    assert "MIT License" in licence
    assert "OpenAI" in licence
    tensors, _ = load_safetensors(path)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(name.startswith("encoder.") for name in tensors)


def test_the_bundled_file_holds_the_published_weights(shared: Path) -> None:
    published = load_whisper(shared / "weights" / "whisper_tiny_en_encoder.pt").state_dict()
    bundled = load_whisper(whisper_tiny_asset()).state_dict()
    assert published.keys() == bundled.keys()
    assert all(torch.equal(tensor, bundled[name]) for name, tensor in published.items())


def test_real_speech_gives_units_that_know_what_is_said(
    tiny: SpeechEncoder, speech: Tensor
) -> None:
    units = tiny.encode(speech)
    assert units.shape == (1, 384, len(speech) // 320)
    assert torch.isfinite(units).all()
    assert units.std() > 0.5
    # The same words much softer are nearly the same units; other words are not.
    softer = tiny.encode(0.25 * speech)
    backwards = tiny.encode(speech.flip(0))
    same = torch.cosine_similarity(units, softer, dim=1).median()
    other = torch.cosine_similarity(units, backwards, dim=1).median()
    assert same > 0.95
    assert other < same - 0.1


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 1), (1, 1), (319, 1), (320, 1), (639, 1), (640, 2), (16000, 50)]
)
def test_frame_counts(tiny: SpeechEncoder, samples: int, frames: int) -> None:
    """Formula B of spec_encoders 1; shorter input is padded with zeros instead of giving no
    frames.
    """
    units = tiny.encode(0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0)))
    assert units.shape == (1, tiny.dim, frames)
    assert torch.isfinite(units).all()


def test_silence_and_broken_samples(tiny: SpeechEncoder) -> None:
    assert torch.isfinite(tiny.encode(torch.zeros(8000))).all()
    wav = torch.zeros(8000)
    wav[5] = float("nan")
    with pytest.raises(AudioError, match="1 samples of 8000"):
        tiny.encode(wav)


@pytest.mark.parametrize("samples", [480_000, 480_319])
def test_up_to_thirty_seconds_is_one_pass(
    tiny: SpeechEncoder, speech: Tensor, samples: int
) -> None:
    assert isinstance(tiny, WhisperEncoder)
    wav = speech.repeat(1 + samples // len(speech))[:samples]
    with torch.no_grad():
        whole = tiny._net(tiny._mel(wav[None, :480_000]), 1500)
    assert torch.equal(tiny.encode(wav), whole.transpose(1, 2))


def test_seventy_seconds(tiny: SpeechEncoder, long_speech: Tensor) -> None:
    """Chunked encoding keeps every frame in place.

    (1) What is kept of a window is what that window gives by itself (limit 1e-5). (2) Against
    windows displaced by 60 ms, which hear the same sounds 3 positions later, the median cosine is
    above 0.98 (measured 0.99). Windows displaced by seconds differ more, because Whisper's units
    carry the position in the input: see WINDOW_FRAMES.
    """
    units = tiny.encode(long_speech)[0]
    n_frames = len(long_speech) // 320
    assert units.shape == (tiny.dim, n_frames)
    windows = plan_windows(n_frames, WINDOW_FRAMES)
    assert len(windows) > 4
    for part in windows[1:2]:
        alone = tiny.encode(long_speech[part.start * 320 : part.end * 320])[0]
        kept = alone[:, part.keep_start - part.start : part.keep_end - part.start]
        torch.testing.assert_close(
            units[:, part.keep_start : part.keep_end], kept, atol=1e-5, rtol=0
        )
        displaced = tiny.encode(long_speech[(part.start - 3) * 320 : (part.end - 3) * 320])[0]
        near = displaced[:, part.keep_start - part.start + 3 :][:, : kept.shape[1]]
        likeness = torch.cosine_similarity(kept[:, : near.shape[1]], near, dim=0)
        assert likeness.median() > 0.98


def test_sizes_layouts_and_names(tmp_path: Path) -> None:
    """Every size from OpenAI's layout; as .safetensors under OpenAI's or Hugging Face's names;
    large-v3's 128 bands.
    """
    wav = 0.1 * torch.randn(6400, generator=torch.Generator().manual_seed(0))
    state = small_whisper(dim=512, layers=1)
    decoder = {"decoder.token_embedding.weight": torch.ones(3, 512)}
    dims = {"n_audio_head": 8, "n_audio_state": 512}
    torch.save({"dims": dims, "model_state_dict": {**state, **decoder}}, tmp_path / "base.pt")
    save_safetensors({**state, **decoder}, tmp_path / "openai.safetensors")
    renamed = {hugging_face_name(name): tensor for name, tensor in state.items()}
    save_safetensors(renamed, tmp_path / "hugging_face.safetensors")
    default = build_speech_encoder("whisper-ppg-base", pretrain_dir=tmp_path)
    expected = default.encode(wav)
    assert (default.dim, expected.shape) == (512, (1, 512, 20))
    for name in ("openai", "hugging_face"):
        other = build_speech_encoder("whisper-ppg-base", path=tmp_path / f"{name}.safetensors")
        assert torch.equal(other.encode(wav), expected)
    bands = small_whisper(dim=1280, layers=1, n_mels=128)
    torch.save({"model_state_dict": bands}, tmp_path / "large-v3.pt")
    large = build_speech_encoder("whisper-ppg-large", path=tmp_path / "large-v3.pt")
    assert large.encode(wav).shape == (1, 1280, 20)


def test_a_file_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        build_speech_encoder("whisper-ppg", path=whisper_tiny_asset())
    for words in ("384 wide", "whisper-ppg is medium", "medium.pt", '"whisper-ppg-tiny"'):
        assert words in str(caught.value)
    torch.save({"model_state_dict": small_whisper(dim=64)}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"64 wide \(no published size\)"):
        build_speech_encoder("whisper-ppg-base", path=tmp_path / "odd.pt")


def test_tiny_pt_is_preferred_where_present(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "svc.speech")
    build_speech_encoder("whisper-ppg-tiny", pretrain_dir=tmp_path)
    assert "whisper_tiny_en_encoder.safetensors" in caplog.text
    state = small_whisper(dim=384, layers=1)
    torch.save({"dims": {}, "model_state_dict": state}, tmp_path / "tiny.pt")
    build_speech_encoder("whisper-ppg-tiny", pretrain_dir=tmp_path)
    assert str(tmp_path / "tiny.pt") in caplog.text


def test_files_with_other_nets_say_so(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"model": {"dec.weight": torch.ones(3)}}, path)
    with pytest.raises(CheckpointError, match=r"other\.pt holds no Whisper encoder"):
        load_whisper(path)
    state = small_whisper()
    state["encoder.blocks.1.attn.key.bias"] = torch.ones(128)
    torch.save({"dims": {}, "model_state_dict": state}, path)
    with pytest.raises(CheckpointError, match=r"unknown to the model: blocks\.1\.attn\.key\.bias"):
        load_whisper(path)
    torch.save({"dims": {"n_audio_head": 5}, "model_state_dict": small_whisper()}, path)
    with pytest.raises(CheckpointError, match="5 attention heads do not divide 128"):
        load_whisper(path)
    torch.save({"dims": [1], "model_state_dict": small_whisper()}, path)
    with pytest.raises(CheckpointError, match="not a Whisper model"):
        load_whisper(path)


def test_a_batch_equals_one_by_one(tiny: SpeechEncoder, speech: Tensor) -> None:
    """Each clip has its own 30 s of net input, so only rounding is left; also above 30 s."""
    assert isinstance(tiny, WhisperEncoder)
    waves = [speech[:n] for n in (16000, 500, 64000, 0, 15999)]
    waves.append(speech.repeat(10)[: 16000 * 33])
    alone = [tiny.encode(wave) for wave in waves]
    tiny._at_once = 3  # what an accelerator does
    together = tiny.encode_batch(waves)
    assert [units.shape for units in together] == [units.shape for units in alone]
    for one, other in zip(together, alone):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.005), ("bf16", 0.04)])
def test_half_precision(tiny: SpeechEncoder, speech: Tensor, precision: str, limit: float) -> None:
    """Relative RMS deviation on real speech with real weights: measured 0.002 and 0.017."""
    half = build_speech_encoder("whisper-ppg-tiny", precision=precision)
    full, units = tiny.encode(speech), half.encode(speech)
    assert units.dtype == torch.float32
    deviation = float((units - full).norm() / full.norm())
    logger.info("%s: %.4f", precision, deviation)
    assert 1e-5 < deviation < limit
