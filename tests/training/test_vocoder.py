"""Training a mel vocoder on half-second clips of two buzzing voices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio, write_audio
from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.config import find_template
from svc.config.vocoder_training import (
    VocoderRunConfig,
    VocoderTrainConfig,
    load_vocoder_run_config,
)
from svc.dataset.features import FeatureCache, FeaturePaths, FeatureSettings
from svc.errors import CheckpointError, ConfigError, DatasetError, MissingFileError, SvcError
from svc.training.scores import Score
from svc.training.vocoder import train_vocoder
from svc.training.vocoder_clips import (
    Takes,
    VocoderDataset,
    collate,
    hold_out,
    list_clips,
    read_takes,
)
from svc.training.vocoder_files import export, read_best
from svc.training.vocoder_options import VocoderTrainOptions, VocoderTrainResult
from svc.training.vocoder_step import VocoderPair
from svc.training.vocoder_validation import VocoderValidation
from svc.vocoder.nsf_hifigan import NsfHifigan, load_vocoder, log_mel_of

RATE, HOP = 8000, 64
TRAIN: dict[str, Any] = {
    "segment_size": 16 * HOP, "batch_size": 2, "learning_rate": 2e-3, "log_interval": 4,
    "eval_interval": 100, "seed": 7, "lr_decay": 0.9, "discriminator_width": 0.03,
}  # fmt: skip
VOCODER: dict[str, Any] = {
    "resblock": "2", "upsample_rates": [8, 4, 2], "upsample_kernel_sizes": [16, 8, 4],
    "upsample_initial_channel": 32, "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]], "num_mels": 20, "n_fft": 256, "win_size": 256,
    "hop_size": HOP, "sampling_rate": RATE, "fmin": 40, "fmax": 3800, "num_workers": 4,
}  # fmt: skip
FRAMES = (60, 45, 70)
pytestmark = pytest.mark.usefixtures("no_pictures")


def write_config(path: Path, vocoder: dict[str, Any] | None = None, **train: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**VOCODER, **(vocoder or {}), "train": {**TRAIN, **train}}))
    return path


def write_clip(path: Path, frames: int, pitch: float, *, hop: int = HOP) -> None:
    time = np.arange(frames * HOP + 10) / RATE
    noise = np.random.default_rng(int(pitch)).standard_normal(len(time))
    wav = 0.3 * np.sign(np.sin(2 * np.pi * pitch * time)) + 0.01 * noise
    write_audio(path, wav.astype(np.float32), RATE)
    cache = FeatureCache(FeatureSettings(speech_encoder="any", sampling_rate=RATE, hop_length=hop))
    count = frames * HOP // hop
    cache.save(path, f0=torch.stack([torch.full((count,), pitch), torch.ones(count)]))


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three clips of alice and three of bob under ``clips``, and ``config.json``; works there."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("alice", "bob")):
        for index, frames in enumerate(FRAMES):
            pitch = 110.0 + 30 * index + 7 * number
            write_clip(Path("clips", name, f"{index}.wav"), frames, pitch)
    write_config(Path("config.json"))
    return Path("clips")


def go(output: str = "run", **options: Any) -> VocoderTrainResult:
    given = {"dataset": Path("clips"), "config": Path("config.json"), "device": "cpu", **options}
    return train_vocoder(VocoderTrainOptions(output=Path(output), **given))


def log_of(output: str = "run") -> str:
    return Path(output, "train.log").read_text(encoding="utf-8")


def takes_of(config: VocoderRunConfig) -> Takes:
    return read_takes(config, Path("clips"), list_clips(Path("clips")))


def equal_runs(step: int, one: str, two: str) -> None:
    """Weights, optimisers, positions and random numbers, bit for bit."""
    for kind in "VD":
        a, b = (load_checkpoint(Path(run, f"{kind}_{step}.pth")) for run in (one, two))
        assert list(a["model"]) == list(b["model"])
        assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
        first, second = a["optimizer"]["state"], b["optimizer"]["state"]
        assert first.keys() == second.keys()
        for index in first:
            assert all(torch.equal(first[index][key], second[index][key]) for key in first[index])
        assert a["optimizer"]["param_groups"] == b["optimizer"]["param_groups"]
        assert torch.equal(a["svc"]["rng"]["cpu"], b["svc"]["rng"]["cpu"])
        for key in ("step", "epoch", "batch", "order"):
            assert a["svc"][key] == b["svc"][key]


# ---- clips ---------------------------------------------------------------------------------------


def test_the_mel_of_a_crop_has_no_edges(clips: Path) -> None:
    """It is the part of the whole clip's mel, to float32 rounding of the transform."""
    config = load_vocoder_run_config(write_config(Path("config.json"), vol_aug=False))
    dataset = VocoderDataset(config, takes_of(config), seed=3)
    mel = log_mel_of(config.vocoder)
    starts = set()
    for index in range(len(dataset)):
        crop = dataset.crop(index, 1)
        samples, _ = read_audio(crop.name)
        samples = samples[: len(samples) // HOP * HOP]
        wav = crop.wav.numpy()
        start = next(
            n for n in range(0, len(samples), HOP) if np.array_equal(samples[n : n + 1024], wav)
        )
        starts.add(start)
        whole = mel(torch.from_numpy(samples)[None])[0][:, start // HOP : start // HOP + 16]
        assert crop.mel.shape == whole.shape == (20, 16)
        assert float((crop.mel - whole).abs().max()) < 1e-4
        if 0 < start < len(samples) - 1024:  # what it would be without the sound around it
            assert float((mel(crop.wav[None])[0] - whole).abs().max()) > 0.01
    assert len(starts) > 5


def test_an_epoch_goes_through_all_of_the_sound(clips: Path) -> None:
    config = load_vocoder_run_config("config.json")
    dataset = VocoderDataset(config, takes_of(config))
    assert len(dataset) == 2 * (60 // 16 + 45 // 16 + 70 // 16)
    names = [dataset.crop(index, 1).name for index in range(len(dataset))]
    assert {names.count(name) for name in set(names)} == {3, 2, 4}


def test_crops_follow_from_seed_epoch_and_number(clips: Path) -> None:
    config = load_vocoder_run_config("config.json")
    takes = takes_of(config)
    first = VocoderDataset(config, takes, seed=3)
    again = VocoderDataset(config, takes, seed=3, limit=0)
    assert first.memory.clips
    assert not again.memory.clips
    crop = first.crop(4, 2)
    assert torch.equal(crop.wav, again.crop(4, 2).wav)
    for other in (first.crop(4, 3), VocoderDataset(config, takes, seed=4).crop(4, 2)):
        assert not torch.equal(crop.wav, other.wav)


def test_gains_keep_to_their_range_and_change_sound_and_mel_alike(clips: Path) -> None:
    takes = takes_of(load_vocoder_run_config("config.json"))
    plain, loud = (
        VocoderDataset(
            load_vocoder_run_config(write_config(Path("config.json"), vol_aug=vol_aug)), takes
        )
        for vol_aug in (False, True)
    )
    gains = []
    for epoch in range(1, 4):
        for index in range(len(plain)):
            one, two = plain.crop(index, epoch), loud.crop(index, epoch)
            gain = float((two.wav / one.wav).median())
            assert torch.allclose(two.wav, one.wav * gain, atol=1e-6)
            assert float(two.wav.abs().max()) <= 1.0
            clear = one.mel > -3  # above the floor, the logarithm moves by the gain's
            assert torch.allclose((two.mel - one.mel)[clear], torch.tensor(np.log(gain)).float(),
                                  atol=0.02)  # fmt: skip
            gains.append(gain)
    changed = [gain for gain in gains if gain != 1.0]
    assert 0.3 < len(changed) / len(gains) < 0.7
    assert min(changed) >= 0.1
    assert max(changed) > 1.5


def test_lists_folders_and_what_is_held_out(clips: Path) -> None:
    paths = list_clips(clips)
    assert sorted(paths) == sorted(clips.glob("*/*.wav"))
    assert paths == list_clips(clips)
    assert sorted(list_clips(clips / "bob")) == sorted((clips / "bob").glob("*.wav"))
    write_clip(clips / "loose.wav", 40, 100.0)  # of no voice, as for svc preprocess
    assert list_clips(clips) == paths
    Path("list.txt").write_text("".join(f"{path}\n" for path in sorted(paths)))
    listed = list_clips(Path("list.txt"))
    assert listed == sorted(paths)
    assert hold_out(listed, None, 2) == (listed[:-2], listed[-2:])
    assert hold_out(listed, None, 0) == (listed, [])
    assert hold_out(listed[:1], None, 2) == (listed[:1], [])
    Path("val.txt").write_text(f"{listed[1]}\n{Path.cwd() / listed[3]}\n")
    train, held = hold_out(listed, Path("val.txt"), 2)
    assert train == [listed[0], listed[2], listed[4], listed[5]]
    assert len(held) == 2
    with pytest.raises(DatasetError, match=r"--validation list\.txt holds every clip"):
        hold_out(listed, Path("list.txt"), 2)
    Path("empty.txt").write_text("\n")
    with pytest.raises(DatasetError, match=r"empty\.txt is empty.*svc preprocess"):
        list_clips(Path("empty.txt"))


def test_clips_too_short_for_a_crop_are_left_out_and_named(clips: Path) -> None:
    write_clip(clips / "bob/short.wav", 10, 100.0)
    result = go(max_steps=1)
    assert result.step == 1
    assert "1 clips are shorter than a crop of 16 frames and left out, the first:" in log_of()
    assert "short.wav" in log_of()


def test_an_error_met_by_a_loader_is_one_line(clips: Path) -> None:
    config = load_vocoder_run_config("config.json")
    dataset = VocoderDataset(config, takes_of(config), limit=0)
    path = dataset.takes.paths[0]
    write_audio(path, np.zeros(100, dtype=np.float32), RATE)
    found = collate([dataset[1, 0], dataset[1, len(dataset) - 1]])
    assert isinstance(found, DatasetError)
    assert f"{path} has changed since the training began" in str(found)


# ---- learning ------------------------------------------------------------------------------------


def test_forty_steps_halve_the_distance_of_the_mels(clips: Path) -> None:
    """Of held-out clips. Without the adversary, whose part of the loss goes up and down."""
    write_config(Path("config.json"), gan_start_step=1000, lr_decay=0.999)
    config = load_vocoder_run_config("config.json")
    held = hold_out(list_clips(clips), None, 2)[1]
    validation = VocoderValidation(config, read_takes(config, clips, held))

    def distance(vocoder: NsfHifigan) -> float:
        clips = validation.sing(vocoder.generator.eval(), torch.device("cpu"))
        return Score.of([sung.score for sung in clips]).mel

    torch.manual_seed(7)
    before = distance(NsfHifigan(config.vocoder))
    result = go(max_steps=40)
    assert result.best_score is not None
    assert result.best_score.mel < before / 2
    assert distance(load_vocoder(Path("run"))) == pytest.approx(result.best_score.mel, rel=1e-3)
    assert set(result.losses) == {"mel", "offset", "total"}


def test_a_step_moves_both_nets_and_logs_its_losses(clips: Path) -> None:
    config = load_vocoder_run_config("config.json")
    dataset = VocoderDataset(config, takes_of(config))
    batch = collate([dataset.crop(index, 1) for index in range(2)])
    assert not isinstance(batch, SvcError)
    nets = VocoderPair(config, torch.device("cpu"))
    before = [
        {name: value.clone() for name, value in net.state_dict().items()}
        for net in (nets.generator, nets.discriminator)
    ]
    detail = nets.step(batch, 1, detailed=True)
    for net, values in zip((nets.generator, nets.discriminator), before, strict=True):
        now = net.state_dict()
        assert all(not torch.equal(now[name], value) for name, value in values.items())
    assert detail is not None
    assert set(detail.losses) == {"disc", "mel", "offset", "fm", "gen", "total"}
    parts = sum(float(detail.losses[name]) for name in ("mel", "offset", "fm", "gen"))
    assert float(detail.losses["total"]) == pytest.approx(parts, rel=1e-6)
    assert detail.mels["slice/mel_org"].shape == detail.mels["slice/mel_gen"].shape == (20, 16)
    # The bands of the loss are those from 0 Hz to half the rate, which the generator is not told all of.
    assert nets.mel.config.fmin == 0
    assert nets.mel.config.fmax is None
    assert nets.step(batch, 2, detailed=False) is None


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted within an epoch (3 of 7 batches) and exactly at its end, the clips in memory in
    one run and on disk in the other, and evaluated more often.
    """
    straight = go("straight", max_steps=8)
    assert (straight.step, straight.epoch, straight.steps_run) == (8, 2, 8)
    monkeypatch.setattr("svc.training.vocoder_clips.RAM_LIMIT_BYTES", 0)
    for steps in (3, 7, 8):
        result = go("parts", max_steps=steps, config=None if steps > 3 else Path("config.json"))
    assert result.steps_run == 1
    equal_runs(8, "straight", "parts")
    assert Path("straight/model").read_bytes() == Path("parts/model").read_bytes()
    assert "in memory: clips" in log_of("straight")
    assert "in memory: nothing" in log_of("parts")
    assert "V_7.pth: every tensor; optimizer state of" in log_of("parts")


def test_another_seed_is_another_run(clips: Path) -> None:
    for output, seed in (("a", 3), ("again", 3), ("b", 4)):
        go(output, max_steps=1, seed=seed, val_clips=0)
    equal_runs(1, "a", "again")
    with pytest.raises(AssertionError):
        equal_runs(1, "a", "b")


def test_bfloat16(clips: Path) -> None:
    result = go(max_steps=2, precision="bf16")
    assert all(np.isfinite(value) for value in result.losses.values())
    content = load_checkpoint("run/V_2.pth")
    assert {tensor.dtype for tensor in content["model"].values()} == {torch.float32}
    assert content["svc"]["config"]["train"]["half_type"] == "bf16"
    with pytest.raises(ConfigError, match=r"fp16.*needs a CUDA device"):
        go("other", max_steps=2, precision="fp16")
    assert not Path("other").exists()


# ---- files ---------------------------------------------------------------------------------------


def test_the_export_is_the_newest_generator_as_the_community_writes_it(clips: Path) -> None:
    result = go(max_steps=3)
    assert result.exported == Path("run/model")
    content = load_checkpoint("run/model")
    assert list(content) == ["generator"]
    trained = load_checkpoint("run/V_3.pth")["model"]
    assert list(content["generator"]) == list(trained)
    assert all(torch.equal(content["generator"][name], trained[name]) for name in trained)
    assert Path("run/config.json").read_bytes() == Path("config.json").read_bytes()
    vocoder = load_vocoder("run/model")
    mel, f0 = torch.full((1, 20, 30), -3.0), torch.full((1, 30), 220.0)
    wav = vocoder(mel, f0, generator=torch.Generator().manual_seed(1))
    assert wav.shape == (1, 30 * HOP)
    # The same net, its weight norm folded: equal up to rounding.
    net = NsfHifigan(vocoder.config).eval()
    net.generator.load_state_dict(trained)
    unfolded = net(mel, f0, generator=torch.Generator().manual_seed(1)).detach()
    assert float((wav - unfolded).abs().max()) < 1e-5
    assert float(wav.abs().max()) > 1e-3
    # A checkpoint of the run can be sung with as well.
    assert load_vocoder("run/V_3.pth").config == vocoder.config


def test_an_export_of_full_size_has_the_names_and_shapes_of_the_published_one(
    shared: Path, tmp_path: Path
) -> None:
    table = json.loads((shared / "spec/tables/statedict_nsf_hifigan.json").read_text())
    config = load_vocoder_run_config(find_template("template_vocoder.json"))
    export(NsfHifigan(config.vocoder).generator, config.path or Path(), tmp_path)
    state = load_checkpoint(tmp_path / "model")["generator"]
    assert [(name, list(value.shape)) for name, value in state.items()] == [
        (entry["key"], entry["shape"]) for entry in table["state_dict"]
    ]
    written = json.loads((tmp_path / "config.json").read_text())
    assert written.items() >= table["meta"]["config"].items()


def test_layout_of_the_run_folder(clips: Path) -> None:
    result = go(max_steps=5, eval_interval=2, keep=2)
    assert sorted(path.name for path in Path("run").glob("*.pth")) == [
        "D_4.pth", "D_5.pth", "V_4.pth", "V_5.pth",
    ]  # fmt: skip
    assert (result.generator, result.discriminator) == (Path("run/V_5.pth"), Path("run/D_5.pth"))
    assert not list(Path("run").glob(".tmp*"))
    text = log_of()
    for line in (
        "fresh start on cpu", "13 crops of them an epoch", "step 4: disc ", "evaluation at step 2",
        "saved run/V_5.pth and its D at epoch 1, and run/model",
    ):  # fmt: skip
        assert line in text
    assert "kl " not in text
    assert list(Path("run/eval").glob("events.*"))
    # A finished run asked for the same again does nothing and says so.
    again = go(max_steps=5)
    assert (again.steps_run, again.step, again.reason) == (0, 5, "max_steps")
    assert again.best_score == result.best_score


def test_the_best_evaluation_is_kept(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distances = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    monkeypatch.setattr(Score, "of", lambda clips: Score(next(distances), 1.0, None))
    result = go(max_steps=3, eval_interval=1)
    assert result.best == Path("run/best/model")
    assert json.loads(Path("run/best/score.json").read_text())["step"] == 2
    assert "f0_cents" not in Path("run/best/score.json").read_text()
    best, newest = (load_checkpoint(path)["generator"] for path in ("run/best/model", "run/model"))
    assert not torch.equal(best["conv_pre.weight_v"], newest["conv_pre.weight_v"])
    load_vocoder("run/best")
    # A later call knows it, and a better one takes its place.
    result = go(max_steps=4, eval_interval=1)
    assert result.best_score is not None
    assert result.best_score.step == 2
    # Scores on other clips cannot be compared.
    result = go(max_steps=5, eval_interval=1, val_clips=1)
    assert result.best_score == read_best(Path("run"))
    assert result.best_score is not None
    assert (result.best_score.step, result.best_score.mel) == (5, 0.5)


def test_a_run_without_better_scores_ends(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distances = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    monkeypatch.setattr(Score, "of", lambda clips: Score(next(distances), 1.0, None))
    result = go(max_steps=9, eval_interval=1, patience=2)
    assert (result.reason, result.step) == ("patience", 4)
    assert "2 evaluations without a better score than 1 at step 2" in log_of()
    again = go(max_steps=9, eval_interval=1, patience=2)
    assert (again.reason, again.steps_run) == ("patience", 0)
    more = go(max_steps=5, eval_interval=1, patience=3)
    assert more.best_score is not None
    assert more.best_score.step == 5
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in evaluated] == [1, 2, 3, 4, 5]
    assert evaluated[0]["scores"] == {"mel": 3.0, "stft": 1.0}
    assert [line["step"] for line in lines if line.get("event") == "best"] == [1, 2, 5]


def test_without_held_out_clips_there_is_no_best(
    clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = go(max_steps=1, val_clips=0)
    assert result.best is None
    assert not Path("run/best").exists()
    assert any("no held-out clips" in message for message in caplog.messages)
    load_vocoder("run")


def test_resume_never_moves_the_earlier_run_aside(clips: Path) -> None:
    go(max_steps=2)
    write_config(Path("config.json"), {"upsample_initial_channel": 16})
    with pytest.raises(
        ConfigError, match=r"upsample_initial_channel 32 -> 16\); .*--resume never"
    ) as caught:
        go(max_steps=3)
    assert "\n" not in str(caught.value)
    result = go(max_steps=1, resume="never")
    assert result.steps_run == 1
    moved = sorted(
        path.relative_to("run/earlier_1").as_posix()
        for path in Path("run/earlier_1").rglob("*")
        if path.is_file()
    )
    assert moved == [
        "D_2.pth", "V_2.pth", "best/config.json", "best/model", "best/score.json", "model",
    ]  # fmt: skip
    assert load_vocoder("run").config.upsample_initial_channel == 16
    assert load_vocoder("run/best").config.upsample_initial_channel == 16


def test_going_on_from_an_earlier_step(clips: Path) -> None:
    go(max_steps=4, eval_interval=2, keep=0)
    result = go(max_steps=3, resume="run/V_2.pth", config=None)
    assert result.steps_run == 1
    assert Path("run/earlier_1/V_4.pth").is_file()
    assert Path("run/earlier_1/model").is_file()
    with pytest.raises(MissingFileError, match=r"V_9\.pth is not there.*an existing V_\*\.pth"):
        go(resume="run/V_9.pth")


# ---- fine-tuning ---------------------------------------------------------------------------------


@pytest.fixture
def base(clips: Path) -> Path:
    """A vocoder as the community publishes it, with training settings that are not ours."""
    config = json.loads(write_config(Path("base/config.json")).read_text())
    del config["train"]
    Path("base/config.json").write_text(json.dumps({**config, "learning_rate": 1e-4}))
    torch.manual_seed(5)
    net = NsfHifigan(load_vocoder_run_config("base/config.json").vocoder)
    save_checkpoint({"generator": net.generator.state_dict(), "steps": 9}, Path("base/model"))
    return Path("base")


def test_fine_tuning_begins_from_every_tensor_of_the_base(base: Path) -> None:
    before = load_checkpoint("base/model")["generator"]
    go(max_steps=1, base=base, learning_rate=1e-6)
    after = load_checkpoint("run/model")["generator"]
    moves = [float((after[name] - before[name]).abs().max()) for name in before]
    assert 0 < max(moves) < 1e-5  # one step of AdamW moves no number by more than the rate
    text = log_of()
    assert "base start on cpu" in text
    assert f"base/model: every tensor of {len(before)}" in text
    assert "base/model: not used: steps" in text
    assert "the discriminator begins new" in text
    # Going on reads the run and not the base.
    go(max_steps=2, base=base)
    assert "--base base is not read: the run goes on" in log_of()


def test_the_config_of_the_base_is_the_default(base: Path) -> None:
    raw = json.loads(Path("base/config.json").read_text())
    raw["train"] = TRAIN
    Path("base/config.json").write_text(json.dumps(raw))
    go(max_steps=1, base=base, config=None)
    assert Path("run/config.json").read_bytes() == Path("base/config.json").read_bytes()
    go(max_steps=2, base=base, config=None)
    assert load_checkpoint("run/V_2.pth")["svc"]["config"]["learning_rate"] == 1e-4  # kept, unused


def test_a_base_of_another_shape_is_refused(base: Path) -> None:
    write_config(Path("config.json"), {"upsample_initial_channel": 64})
    with pytest.raises(ConfigError, match=r"upsample_initial_channel 32 -> 64\); leave out --conf"):
        go(base=base)
    # A file that does not fit its own config.
    content = load_checkpoint("base/model")
    del content["generator"]["conv_post.bias"]
    save_checkpoint(content, Path("base/model"))
    with pytest.raises(CheckpointError, match=r"base/model does not fit.*conv_post\.bias"):
        go(base=base, config=base / "config.json", segment_frames=16)
    with pytest.raises(MissingFileError, match=r"the vocoder's file nowhere is missing"):
        go(base=Path("nowhere"))
    assert not Path("run").exists()


def test_folded_weights_are_a_base_too(base: Path) -> None:
    net = load_vocoder(base)
    save_checkpoint({"generator": net.generator.state_dict()}, Path("base/model"))
    go(max_steps=1, base=base, learning_rate=1e-6)
    mel, f0 = torch.full((1, 20, 30), -3.0), torch.full((1, 30), 220.0)
    one, two = (
        vocoder(mel, f0, generator=torch.Generator().manual_seed(1))
        for vocoder in (net, load_vocoder("run"))
    )
    assert float((one - two).abs().max()) < 1e-3


def test_a_checkpoint_of_a_run_brings_its_discriminator(base: Path) -> None:
    go("first", max_steps=2)
    go(max_steps=1, base=Path("first/V_2.pth"), learning_rate=1e-6)
    one, two = (load_checkpoint(path)["model"] for path in ("first/D_2.pth", "run/D_1.pth"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    assert "first/D_2.pth: every tensor" in log_of()
    Path("first/D_2.pth").unlink()
    with pytest.raises(CheckpointError, match=r"V_2\.pth has no D_2\.pth beside it.*first/model"):
        go("other", base=Path("first/V_2.pth"))


def test_a_mini_nsf_vocoder(clips: Path) -> None:
    write_config(Path("config.json"), {"mini_nsf": True})
    go(max_steps=1)
    assert "source_conv.weight" in load_checkpoint("run/model")["generator"]
    wav = load_vocoder("run")(torch.zeros(1, 20, 8), torch.full((1, 8), 200.0))
    assert wav.shape == (1, 8 * HOP)


def test_a_snake_vocoder(clips: Path) -> None:
    """A key of the config; it trains, is exported, sings, and is a base."""
    write_config(Path("config.json"), {"snake": True})
    go(max_steps=2)
    state = load_checkpoint("run/model")["generator"]
    assert state["snakes.0.act.alpha"].abs().max() > 0  # begins at 0
    wav = load_vocoder("run")(torch.zeros(1, 20, 8), torch.full((1, 8), 200.0))
    assert wav.shape == (1, 8 * HOP)
    go("second", max_steps=1, base=Path("run"))
    write_config(Path("config.json"))
    with pytest.raises(ConfigError, match="snake True -> False"):
        go("third", max_steps=1, base=Path("run"))


# ---- what is refused, before anything is written -------------------------------------------------


def spoil_rate(clips: Path) -> None:
    write_audio(clips / "bob/1.wav", np.zeros(9000, dtype=np.float32), 2 * RATE)


def spoil_hop(clips: Path) -> None:
    write_clip(clips / "bob/1.wav", 60, 100.0, hop=2 * HOP)


def spoil_length(clips: Path) -> None:
    path = FeaturePaths.of(clips / "bob/1.wav")
    path.meta.unlink()
    np.save(path.f0, np.ones((2, 30), dtype=np.float32))


def spoil_recording(clips: Path) -> None:
    write_audio(clips / "bob/1.wav", np.zeros(3000, dtype=np.float32), RATE)


def remove_f0(clips: Path) -> None:
    FeaturePaths.of(clips / "bob/1.wav").f0.unlink()


def remove_clip(clips: Path) -> None:
    lines = [f"{path}\n" for path in clips.glob("*/*.wav")]
    Path("list.txt").write_text("".join([*lines, "clips/bob/gone.wav\n"]))


def voice_there(clips: Path) -> None:
    Path("run").mkdir()
    save_checkpoint({"model": {}}, Path("run/G_800.pth"))


def vocoder_there(clips: Path) -> None:
    Path("run").mkdir()
    Path("run/model").write_bytes(b"a published vocoder")


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (None, {"dataset": Path("nowhere.txt")}, r"nowhere\.txt is not there"),
        (None, {"config": Path("nowhere.json")}, r"nowhere\.json is not there"),
        (None, {"segment_frames": 3}, r"at least 4 frames"),
        (None, {"segment_frames": 80}, r"the clips of clips are shorter than a crop of 80 frames"),
        (remove_f0, {}, r"1 feature files of clips are missing: .*1\.wav\.f0\.npy; run  svc prepr"),
        (spoil_rate, {}, r"1\.wav has 16000 Hz and the config says 8000 Hz; run  svc resample"),
        (spoil_hop, {}, r"1\.wav: its features are for 8000 Hz and hop 128, the config says 8000 "),
        (spoil_length, {}, r"1\.wav has 45 frames of 64 samples and 30 of f0: .*svc preprocess"),
        (spoil_recording, {}, r"1\.wav has changed since its features were made; run  svc prepro"),
        (
            remove_clip,
            {"dataset": Path("list.txt")},
            r"1 of \d clips of list\.txt are not there: .*gone",
        ),
        (voice_there, {}, r"run is the run of a voice: it holds G_800\.pth; .*--output"),
        (vocoder_there, {}, r"run/model is a vocoder without the V_<step>\.pth .*--base run"),
    ],
)
def test_refusals(
    clips: Path, spoil: Callable[[Path], None] | None, options: dict[str, Any], message: str
) -> None:
    if spoil is not None:
        spoil(clips)
    files = set(Path("run").rglob("*"))
    with pytest.raises(SvcError, match=message) as caught:
        go(**options)
    assert "\n" not in str(caught.value)
    assert set(Path("run").rglob("*")) == files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch_size is 0"),
        ({"segment_frames": 0}, "--segment_frames is 0"),
        ({"learning_rate": 0.0}, "--lr is 0.0"),
        ({"keep": -1}, "--keep is -1"),
        ({"val_clips": -1}, "--val_clips is -1"),
        ({"seed": -1}, "--seed is -1"),
        ({"precision": "int8"}, "int8"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VocoderTrainOptions(**options)


def test_configs_that_training_cannot_use(tmp_path: Path) -> None:
    for changes, message in (
        ({"win_size": 128}, r'"win_size" 128 and "n_fft" 256 must be equal for training'),
        ({"hop_size": 65}, r'multiply to 64, "hop_size" is 65'),
    ):
        with pytest.raises(ConfigError, match=message):
            load_vocoder_run_config(write_config(tmp_path / "config.json", changes))
    for train, message in (
        ({"segment_size": 1000}, r'"train\.segment_size" \(1000, .*multiple of "hop_size" \(64\)'),
        ({"segment_size": "long"}, r'"train\.segment_size" must be a whole number'),
        ({"discriminator_width": 0}, r'"train\.discriminator_width" must be above 0'),
        ({"batch_size": 0}, r'"train\.batch_size" must be at least 1'),
    ):
        with pytest.raises(ConfigError, match=message):
            load_vocoder_run_config(write_config(tmp_path / "config.json", **train))


def test_a_resume_needs_a_file_that_says_what_it_is(clips: Path) -> None:
    go(max_steps=1)
    content = load_checkpoint("run/V_1.pth")
    del content["svc"]
    save_checkpoint(content, Path("run/V_1.pth"))
    with pytest.raises(ConfigError, match=r"does not say what it was trained with; .*--base run/V"):
        go(max_steps=2)


def test_an_unreadable_newest_checkpoint_never_restarts(clips: Path) -> None:
    go(max_steps=3, eval_interval=2)
    path = Path("run/V_3.pth")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CheckpointError, match=r"V_3\.pth: not a readable.*--resume run/V_2\.pth"):
        go(max_steps=4)
    shutil.rmtree("run/eval")
    Path("run/D_3.pth").unlink()
    with pytest.raises(CheckpointError, match=r"V_3\.pth has no D_3\.pth .*--resume run/V_2\.pth"):
        go(max_steps=4)


# ---- measures and templates ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["template_vocoder.json", "template_vocoder_small.json"])
def test_templates(name: str) -> None:
    path = find_template(name)
    config = load_vocoder_run_config(path)
    NsfHifigan(config.vocoder)
    community = (44100, 512, 2048, 2048, 128, 40.0, 16000.0)
    vocoder = config.vocoder
    assert community == (
        vocoder.sampling_rate, vocoder.hop_size, vocoder.n_fft, vocoder.win_size, vocoder.num_mels,
        vocoder.fmin, vocoder.fmax,
    )  # fmt: skip
    raw = json.loads(path.read_text())
    written = config.to_dict()
    assert {key: written[key] for key in raw if key != "train"} == {
        key: value for key, value in raw.items() if key != "train"
    }
    assert written["train"].items() >= raw["train"].items()
    if name == "template_vocoder.json":  # what a published config without the section gets
        usual = VocoderTrainConfig()
        assert {key: getattr(usual, key) for key in raw["train"] if key != "betas"} == {
            key: value for key, value in raw["train"].items() if key != "betas"
        }
