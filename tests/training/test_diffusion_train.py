"""`svc train-diff` as a library call: exact resuming, saves, base models, what is refused."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.dataset.features import FeatureCache
from svc.diffusion import load_diffusion
from svc.errors import CheckpointError, ConfigError, DatasetError, MissingFileError, SvcError
from svc.training.diffusion import train
from svc.training.diffusion_options import DiffusionTrainOptions, DiffusionTrainResult

MakeRun = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a tiny step."""
    blank = np.zeros((2, 2, 3), dtype=np.uint8)
    monkeypatch.setattr("svc.training.figures.comparison_image", lambda truth, made: blank)


def go(run: Any, folder: str | None = None, **options: Any) -> DiffusionTrainResult:
    expdir = None if folder is None else Path(folder)
    return train(
        DiffusionTrainOptions(run.config_path, expdir=expdir, **{"val_samples": 0, **options})
    )


def log_of(folder: str = "run") -> str:
    return Path(folder, "log_info.txt").read_text(encoding="utf-8")


def models(folder: str = "run") -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.pt"))


def equal(one: Any, two: Any, where: str = "") -> None:
    """Compare two checkpoints bit for bit."""
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, Mapping):
        assert list(one) == list(two), where
        for key in one:
            equal(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for index, pair in enumerate(zip(one, two, strict=True)):
            equal(*pair, f"{where}/{index}")
    else:
        assert one == two, where


def equal_but_for_the_folder(step: int, one: str, two: str) -> None:
    files = [load_checkpoint(Path(folder, f"model_{step}.pt")) for folder in (one, two)]
    for file in files:
        file["svc"]["config"]["env"] = file["svc"]["config_hash"] = None
        file["svc"]["config"]["train"]["cache_all_data"] = None
    equal(*files)


# ---- resuming ------------------------------------------------------------------------------------


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(make_run: MakeRun) -> None:
    """Interrupted within an epoch (2 of 3 batches) and at the end of one (3), with a rate that
    falls between, and with the clips in memory in one run and read from disk in the other.
    """
    run = make_run()
    straight = go(run, "straight", max_steps=7)
    assert (straight.step, straight.epoch, straight.steps_run) == (7, 3, 7)
    run.edit(train={"cache_all_data": False})
    for steps in (2, 3, 7):
        torch.manual_seed(steps)  # what else the process draws is of no interest
        result = go(run, "parts", max_steps=steps)
        assert result.reason == "max_steps"
    assert result.steps_run == 4
    equal_but_for_the_folder(7, "straight", "parts")
    group = load_checkpoint("parts/model_7.pt")["optimizer"]["param_groups"][0]
    assert group["lr"] == 1e-3 * 0.5**1  # update 7 of decay_step 3: floor(5 / 3)
    assert "in memory: nothing" in log_of("parts")
    assert "in memory: 1 MB" in log_of("straight")
    assert "resume start" in log_of("parts")
    assert "every tensor; optimizer state of" in log_of("parts")
    # Finished, and asked for the same again, it does nothing.
    again = go(run, "parts", max_steps=7)
    assert (again.steps_run, again.step, again.reason) == (0, 7, "max_steps")


def test_another_seed_is_another_run(make_run: MakeRun) -> None:
    run = make_run()
    for folder, seed in (("a", 1), ("b", 2)):
        go(run, folder, max_steps=1, seed=seed)
    one, two = (load_checkpoint(f"{name}/model_1.pt")["model"] for name in "ab")
    assert not torch.equal(one["unit_embed.weight"], two["unit_embed.weight"])


def test_loader_processes_change_nothing(make_run: MakeRun) -> None:
    run = make_run(train={"cache_all_data": False})
    go(run, "one", max_steps=3)
    go(run, "two", max_steps=3, num_workers=2)
    equal_but_for_the_folder(3, "one", "two")
    assert "2 loader processes" in log_of("two")


def test_without_its_optimizer_a_run_goes_on_with_a_new_one(make_run: MakeRun) -> None:
    run = make_run(train={"save_opt": False})
    go(run, max_steps=4)
    saved = load_checkpoint("run/model_4.pt")
    assert list(saved) == ["global_step", "model", "svc"]
    assert '"train.save_opt" is false: the optimizer is not saved' in log_of()
    result = go(run, max_steps=5)
    assert (result.step, result.steps_run) == (5, 1)
    assert "no optimizer state in the file" in log_of()


def test_a_run_of_the_original_goes_on(make_run: MakeRun) -> None:
    """No key of ours: the step inside the file counts, not its name; the rate is that of the step."""
    run = make_run()
    go(run, "first", max_steps=5)
    content = load_checkpoint("first/model_5.pt")
    del content["svc"]
    save_checkpoint({**content, "global_step": 7}, Path("run/model_9.pt"))
    result = go(run, max_steps=8)
    assert (result.step, result.steps_run, result.epoch) == (8, 1, 3)  # 3 batches make an epoch
    assert "model_9.pt holds step 7, which counts" in log_of()
    assert "no exact position in the file: epoch 3 from its beginning" in log_of()
    assert [name for name in models() if "best" not in name] == ["model_8.pt"]
    saved = load_checkpoint("run/model_8.pt")
    assert saved["optimizer"]["param_groups"][0]["lr"] == 1e-3 * 0.5**2
    assert float(saved["optimizer"]["state"][0]["step"]) == 6  # the moments were taken over


def test_the_original_finds_the_newest_of_ours(make_run: MakeRun) -> None:
    """Its rule: every *.pt below the folder, cut `<expdir>/model_` off, what is no number is 0."""
    run = make_run()
    go(run, max_steps=9, keep=0)
    assert "best/" in models()[0]
    steps = []
    for path in Path("run").rglob("*.pt"):
        rest = str(path).removesuffix(".pt").replace("run/model_", "", 1)
        steps.append(int(rest) if rest.isdecimal() else 0)
    assert max(steps) == 9
    content = load_checkpoint("run/model_9.pt")
    assert content["global_step"] == 9
    assert list(content)[:3] == ["global_step", "model", "optimizer"]
    assert {type(key) for key in content["optimizer"]["state"]} == {int}
    assert content["optimizer"]["param_groups"][0]["initial_lr"] == 1e-3


def test_a_changed_data_set_begins_its_epoch_anew(make_run: MakeRun) -> None:
    run = make_run()
    go(run, max_steps=5)
    lines = Path("train.txt").read_text().splitlines()[1:]
    Path("train.txt").write_text("\n".join(lines))
    go(run, max_steps=6)
    assert "the data set or batch size has changed: epoch 2 from its beginning" in log_of()


# ---- saves and the run folder --------------------------------------------------------------------


def test_layout_of_the_run_folder(make_run: MakeRun) -> None:
    run = make_run()
    result = go(run, max_steps=9, learning_rate=2e-3)
    assert (result.model, result.run_dir) == (Path("run/model_9.pt"), Path("run"))
    assert set(result.losses) == {"loss", "validation"}
    # Saves at 4, 8 and at the end; none of them is a multiple of 10.
    assert result.best is not None
    assert models() == [f"best/{result.best.name}", "model_9.pt"]
    assert list(Path("run/logs").glob("events.*"))
    assert not list(Path("run").glob("events.*"))
    text = log_of()
    for part in ("fresh start on cpu", "step 2: loss ", "lr 0.002", "validation after step 4: loss",
                 "6 clips, 2 held out, 0 loader processes", "ended by max_steps at step 9"):  # fmt: skip
        assert part in text
    # The config is that of the file, every key explicit, without what the command line changed.
    assert yaml.safe_load(Path("run/config.yaml").read_text()) == run.config.to_dict()
    # Both are voices that sing.
    for path in (result.model, result.best):
        assert path is not None
        net, _ = load_diffusion(path)
        assert net.global_step == int(path.stem[6:])
    mel = net.infer(
        torch.zeros(1, 30, 384), torch.full((1, 30), 220.0), torch.ones(1, 30),
        torch.tensor([1]),
    )  # fmt: skip
    assert mel.shape == (1, 16, 30)


@pytest.mark.parametrize(
    ("keep", "left"), [(1, {10, 20, 22}), (2, {10, 20, 22}), (3, {10, 16, 20, 22}), (0, None)]
)
def test_deletion(make_run: MakeRun, keep: int, left: set[int] | None) -> None:
    """interval_val 4, interval_force_save 10; 20 is a multiple of both, 10 is a stop's save."""
    run = make_run()
    for steps in (10, 22):
        go(run, max_steps=steps, keep=keep)
    steps = {int(path.stem[6:]) for path in Path("run").glob("model_*.pt")}
    assert steps == (left if left is not None else {4, 8, 10, 12, 16, 20, 22})


def test_the_best_survives_and_is_compared_after_a_resume(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    losses = iter([0.9, 0.3, 0.5, 0.2, 0.4])
    monkeypatch.setattr(
        "svc.training.diffusion_validation.Validation.loss", lambda *_: next(losses)
    )
    assert go(run, max_steps=8).best == Path("run/best/model_8.pt")
    assert go(run, max_steps=12).best == Path("run/best/model_8.pt")
    assert go(run, max_steps=20).best == Path("run/best/model_16.pt")
    content = load_checkpoint("run/best/model_16.pt")
    assert content["svc"]["validation_loss"] == 0.2
    assert "optimizer" not in content
    assert models() == ["best/model_16.pt", "model_20.pt"]
    assert Path("run/best/config.yaml").read_bytes() == Path("run/config.yaml").read_bytes()
    # Held-out clips of another list: losses that cannot be compared.
    Path("val.txt").write_text("clips/bob/3.wav\n")
    monkeypatch.setattr("svc.training.diffusion_validation.Validation.loss", lambda *_: 0.7)
    assert go(run, max_steps=24).best == Path("run/best/model_24.pt")
    assert "best/model_16.pt was the best on other held-out clips" in log_of()


def test_a_run_whose_loss_falls_no_more_ends(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, losses = make_run(), iter([0.9, 0.3, 0.5, 0.3, 0.2, 0.4])
    monkeypatch.setattr(
        "svc.training.diffusion_validation.Validation.loss", lambda *_: next(losses)
    )
    result = go(run, max_steps=40, eval_interval=2, patience=2)
    assert (result.reason, result.step) == ("patience", 8)
    assert "2 validations without a lower loss than 0.3 at step 4" in log_of()
    assert "model_8.pt" in models()
    assert go(run, max_steps=40, eval_interval=2, patience=2).steps_run == 0
    result = go(run, max_steps=12, eval_interval=2, patience=3)  # there is a better one to come
    assert (result.reason, result.step, result.best) == (
        "max_steps", 12, Path("run/best/model_10.pt"),
    )  # fmt: skip


def test_metrics_have_every_log_line_and_validation(make_run: MakeRun) -> None:
    go(make_run(), max_steps=4, log_interval=2, eval_interval=4, val_samples=1)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    kinds = [(line["kind"], line["step"], line.get("event")) for line in lines]
    assert kinds == [
        ("event", 0, "start"), ("train", 1, None), ("train", 2, None), ("train", 4, None),
        ("event", 4, "best"), ("validation", 4, None),
    ]  # fmt: skip
    trained, validated = lines[2], lines[-1]
    assert set(trained["losses"]) == {"loss"}
    assert set(trained["gradient_norms"]) == {"g"}
    assert trained["steps_per_second"] > 0
    assert validated["loss"]["loss"] == lines[-2]["score"]
    assert set(validated["scores"]) == {"mel_distance", "rtf"}


def test_a_validation_loss_that_is_no_number_is_never_the_best(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "svc.training.diffusion_validation.Validation.loss", lambda *_: float("inf")
    )
    assert go(make_run(), max_steps=2).best is None
    assert models() == ["model_2.pt"]


def test_never_begins_again_and_keeps_the_old_run(make_run: MakeRun) -> None:
    run = make_run()
    go(run, max_steps=4)
    run.edit(model={"n_chans": 12})
    result = go(run, max_steps=2, resume="never")
    assert (result.step, result.steps_run) == (2, 2)
    assert models() == [
        "best/model_2.pt", "earlier_1/best/model_4.pt", "earlier_1/model_4.pt", "model_2.pt",
    ]  # fmt: skip
    assert yaml.safe_load(Path("run/config.1.yaml").read_text())["model"]["n_chans"] == 16
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["n_chans"] == 12


def test_going_on_from_a_path(make_run: MakeRun) -> None:
    run = make_run()
    go(run, max_steps=8, keep=0)
    here = go(run, max_steps=5, resume=str(Path("run/model_4.pt").resolve()))
    assert (here.step, here.steps_run) == (5, 1)
    assert "earlier_1/model_8.pt" in models()
    assert Path("run/model_4.pt").is_file() is False  # pruned, as it is neither newest nor forced
    # Into the folder of another run: that one is moved aside whole.
    go(run, "other", max_steps=2)
    elsewhere = go(run, "other", max_steps=6, resume="run")
    assert (elsewhere.step, elsewhere.steps_run) == (6, 1)
    assert models("other") == [
        "best/model_6.pt", "earlier_1/best/model_2.pt", "earlier_1/model_2.pt", "model_6.pt",
    ]  # fmt: skip


def test_a_stop_saves_the_step_it_has_reached(make_run: MakeRun) -> None:
    run = make_run()

    def interrupt(step: int, total: int, what: str) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    options = DiffusionTrainOptions(run.config_path, max_steps=9, val_samples=0)
    result = train(options, progress=interrupt)
    assert (result.reason, result.step) == ("SIGTERM", 3)
    assert models() == ["model_3.pt"]  # no validation in the way of a stop
    go(run, max_steps=7)
    go(run, "straight", max_steps=7)
    equal_but_for_the_folder(7, "run", "straight")


def test_a_validation_that_fails_costs_no_step(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save comes first (spec_diffusion 11)."""
    run = make_run()

    def fail(*_: Any) -> float:
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr("svc.training.diffusion_validation.Validation.loss", fail)
    with pytest.raises(SvcError, match="in the validation after step 4, which is saved") as caught:
        go(run, max_steps=9)
    assert "\n" not in str(caught.value)
    assert models() == ["model_4.pt"]
    assert "ended by SvcError" in log_of()


def test_a_loss_that_is_no_number_saves_nothing(make_run: MakeRun) -> None:
    run = make_run(train={"lr": 1e30, "interval_val": 100})
    # One such step no longer ends a run: as many in a row do, with nothing saved to go back to.
    with pytest.raises(SvcError, match=r"nothing finite in 3 steps .*clips/.*--learning_rate"):
        go(run, max_steps=9, max_bad_steps=3)
    assert models() == []


# ---- validation artefacts ------------------------------------------------------------------------


def test_what_tensorboard_gets(make_run: MakeRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(weights=True)
    go(run, max_steps=4, val_samples=2)
    go(run, max_steps=6, val_samples=2)
    events = EventAccumulator("run/logs", size_guidance={"scalars": 0, "images": 0, "audio": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == {
        "train/loss", "train/lr", "train/grad_norm", "validation/loss", "validation/mel_distance",
        "validation/rtf",
    }  # fmt: skip
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 4, 6]
    rates = [event.value for event in events.Scalars("train/lr")]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4])
    assert [event.step for event in events.Scalars("validation/loss")] == [4, 6]
    assert set(tags["images"]) == {"alice_3.wav", "bob_3.wav"}
    assert set(tags["audio"]) == {
        f"{name}_3_{kind}.wav" for name in ("alice", "bob") for kind in ("gt", "pred")
    }
    (sound, _) = events.Audio("bob_3_pred.wav")
    assert (sound.sample_rate, sound.length_frames) == (8000, 58 * 64)


def test_without_weights_of_a_vocoder_it_is_seen_and_not_heard(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run()
    with caplog.at_level(logging.WARNING):
        go(run, max_steps=1, val_samples=1)
    assert "validations cannot be heard, only seen: the vocoder's file vocoder/model" in caplog.text
    events = EventAccumulator("run/logs")
    events.Reload()
    assert (events.Tags()["images"], events.Tags()["audio"]) == (["alice_3.wav"], [])


# ---- base models ---------------------------------------------------------------------------------


def base_of(run: Any, **changes: Any) -> None:
    """Put a base model without our keys into the folder of the run."""
    go(run, "first", max_steps=2)
    content = load_checkpoint("first/model_2.pt")
    content = {**content, "global_step": 500, **changes}
    content.pop("svc")
    save_checkpoint(content, Path("run/model_0.pt"))


def test_a_base_model_with_other_speakers(make_run: MakeRun) -> None:
    run = make_run()
    base_of(run)
    before = Path("run/model_0.pt").read_bytes()
    base = load_checkpoint("run/model_0.pt")["model"]
    run.edit(spk={"bob": 2, "alice": 1, "zoe": 0}, model={"n_spk": 3})
    result = go(run, max_steps=1)
    assert (result.step, result.steps_run) == (1, 1)  # a new run, whatever the base says of itself
    text = log_of()
    assert "base start" in text
    assert "model_0.pt: every tensor; speakers 0 to 1 of its 2, the net has 3" in text
    count = len(list(base)) - 14  # without the buffers
    assert f"optimizer state of {count - 1} of {count} tensors" in text
    trained = load_checkpoint("run/model_1.pt")["model"]
    assert trained["spk_embed.weight"].shape == (3, 12)
    change = trained["spk_embed.weight"][:2] - base["spk_embed.weight"]
    assert float(change.abs().max()) <= 1.1e-3  # a step of AdamW at 1e-3 from the base's rows
    assert Path("run/model_0.pt").read_bytes() == before
    assert go(run, max_steps=2).steps_run == 1  # goes on from the run, not from the base


@pytest.mark.parametrize(("had", "has", "report"), [
    (2, 1, "model_0.pt: not used: spk_embed (1)"), (1, 2, "model_0.pt: new: spk_embed (1)"),
])  # fmt: skip
def test_a_table_of_speakers_may_come_and_go(
    make_run: MakeRun, had: int, has: int, report: str
) -> None:
    run = make_run(model={"n_spk": had})
    base_of(run)
    run.edit(model={"n_spk": has})
    go(run, max_steps=1)
    assert report in log_of()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": {"n_chans": 12}}, "trained with 16 channels, model.n_chans is 12"),
        ({"model": {"n_layers": 3}}, "trained with 2 layers, model.n_layers is 3"),
        ({"model": {"use_pitch_aug": False}}, "trained with pitch augmentation"),
        ({"model": {"timesteps": 50}}, "trained with 40 steps of noise"),
    ],
)
def test_a_base_model_that_does_not_fit_is_refused_in_one_line(
    make_run: MakeRun, changes: dict[str, Any], text: str
) -> None:
    run = make_run()
    base_of(run)
    run.edit(**changes)
    with pytest.raises(CheckpointError, match=r"model_0\.pt does not fit .*yaml: ") as caught:
        go(run, max_steps=1)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in Path("run").iterdir()) == ["model_0.pt"]


def test_a_half_precision_base_keeps_the_schedule(make_run: MakeRun) -> None:
    run = make_run()
    base_of(run)
    content = load_checkpoint("run/model_0.pt")
    half = {name: value.half() for name, value in content["model"].items()}
    save_checkpoint({**content, "model": half}, Path("run/model_0.pt"))
    go(run, max_steps=1)
    trained, base = load_checkpoint("run/model_1.pt")["model"], content["model"]
    for name in ("decoder.betas", "decoder.posterior_variance", "decoder.spec_min"):
        assert torch.equal(trained[name], base[name])


# ---- what is refused before the first step -------------------------------------------------------


def refused(run: Any, error: type[SvcError], text: str, **options: Any) -> None:
    """The call fails in one line and leaves no trace."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(error, match=text) as caught:
        go(run, **{"max_steps": 1, **options})
    assert "\n" not in str(caught.value)
    after = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": {"n_chans": 12}}, r"the model section .*\(n_chans 16 -> 12\).*--resume never"),
        ({"model": {"n_spk": 3}}, r"\(n_spk 2 -> 3\)"),
        ({"spk": {"alice": 1, "bob": 0}}, r"trained for the speakers .* as model_0\.pt"),
        ({"data": {"encoder": "hubertsoft", "encoder_out_channels": 256}}, "units were made with"),
    ],
)
def test_another_voice_in_the_same_folder(
    make_run: MakeRun, changes: dict[str, Any], text: str
) -> None:
    run = make_run()
    go(run, max_steps=1)
    run.edit(**changes)
    refused(run, SvcError, text, max_steps=2)
    # A folder of the original has no word of ours in its files, but a copy of its config.
    content = load_checkpoint("run/model_1.pt")
    del content["svc"]
    save_checkpoint(content, Path("run/model_1.pt"))
    refused(run, SvcError, text, max_steps=2)


def test_another_vocoder_in_the_same_folder(make_run: MakeRun, diffusion_module: Any) -> None:
    run = make_run()
    go(run, max_steps=1)
    diffusion_module.write_vocoder(Path("vocoder"), weights=False, fmax=3000)
    settings = run.settings
    for path in Path("clips").rglob("*.wav"):
        meta = json.loads(Path(f"{path}.meta.json").read_text())
        for part in ("mel", "aug_mel", "aug_volume"):
            meta[part] = settings.of(part)
        Path(f"{path}.meta.json").write_text(json.dumps(meta))
    refused(run, ConfigError, r"mels of another vocoder \(fmax 3900.0 -> 3000.0\)", max_steps=2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"spk": {"alice": 0, "bob": 2}}, r'"spk.bob" is 2, and with model.n_spk 2'),
        ({"spk": {"alice": 0, "carol": 1}}, r"clips in the folder bob, unknown to the config"),
        ({"model": {"n_spk": 1}, "spk": {"alice": 0}}, "the folder bob, unknown to the config"),
        ({"data": {"encoder_out_channels": 768}}, "whisper-ppg-tiny"),
        ({"data": {"encoder": "vec768l12", "encoder_out_channels": 768}}, "units were made with"),
        ({"data": {"sampling_rate": 16000}}, "data.sampling_rate 16000 and sampling_rate 8000"),
        ({"data": {"block_size": 128}}, "data.block_size 128 and hop_size 64; set vocoder.ckpt"),
        ({"data": {"duration": 0.001}}, "less than a frame"),
        ({"data": {"duration": 1.0}}, r"all 6 clips of train.txt are too short, the longest: .*0.56"),
        ({"data": {"training_files": "none.txt"}}, r"none\.txt is not there"),
        ({"vocoder": {"ckpt": "nowhere/model"}}, r"nowhere/config\.json is missing: unpack"),
        ({"vocoder": {"type": "other"}}, 'vocoder.type "other" is unknown'),
        ({"infer": {"method": "magic"}}, 'infer.method "magic" is unknown'),
        ({"infer": {"speedup": 25}}, "k_step 40 with infer.speedup 25 makes 1 step"),
        ({"train": {"amp_dtype": "fp8"}}, '"train.amp_dtype" is "fp8"'),
        ({"train": {"amp_dtype": "fp16"}}, '"fp16" needs a CUDA device'),
        ({"train": {"batch_size": 0}}, '"train.batch_size" is 0; use 1 or more'),
        ({"train": {"interval_force_save": 0}}, '"train.interval_force_save" is 0'),
        ({"train": {"lr": 0}}, '"train.lr" is 0; use a number above 0'),
        ({"train": {"weight_decay": -1}}, "must not be negative"),
        ({"train": {"cache_device": "cuda"}}, '"train.cache_device" is "cuda" and this run is on cpu'),
    ],
)  # fmt: skip
def test_what_cannot_work_is_found_before_the_first_step(
    make_run: MakeRun, changes: dict[str, Any], text: str
) -> None:
    run = make_run(weights="vocoder" in changes)
    run.edit(**changes)
    refused(run, SvcError, text)


def test_data_that_cannot_work(make_run: MakeRun, diffusion_module: Any) -> None:
    run = make_run()
    clip = Path("clips/bob/2.wav")
    for name in (".soft.pt", ".f0.npy", ".vol.npy", ".mel.npy", ".aug_mel.npy", ".aug_vol.npy"):
        file = Path(f"{clip}{name}")
        kept = file.read_bytes()
        file.unlink()
        refused(
            run, DatasetError, f"1 feature files of train.txt are missing: {file}; .*--use_diff"
        )
        file.write_bytes(b"damaged")
        refused(run, SvcError, str(file))
        file.write_bytes(kept)
    wav = clip.read_bytes()
    clip.unlink()
    refused(run, DatasetError, r"1 of 6 clips of train.txt are not there")
    clip.write_bytes(wav[:44] + bytes(len(wav) - 44))
    refused(run, DatasetError, r"2\.wav has changed since its features were made")
    clip.write_bytes(wav)
    diffusion_module.write_vocoder(Path("vocoder"), weights=False, num_mels=20)
    refused(run, DatasetError, r"their mels were made for another vocoder; run .* --use_diff")
    diffusion_module.write_vocoder(Path("vocoder"), weights=False)
    Path("vocoder/model").write_bytes(b"damaged")
    refused(run, CheckpointError, "vocoder/model: not a readable checkpoint")
    Path("vocoder/model").unlink()
    Path("train.txt").write_text("\n")
    refused(run, DatasetError, r"the file list train\.txt is empty")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"device": "cuda:9"}, SvcError, "cuda:9"),
        ({"resume": "nowhere.pt"}, MissingFileError, "--resume nowhere.pt is not there"),
    ],
)
def test_flags_that_cannot_work(
    make_run: MakeRun, options: dict[str, Any], error: type[SvcError], text: str
) -> None:
    refused(make_run(), error, text, **options)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"max_steps": 0}, {"keep": -1}, {"num_workers": -1}, {"seed": -1},
     {"max_minutes": 0.0}, {"learning_rate": -1.0}, {"val_samples": -2}],
)  # fmt: skip
def test_numbers_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(options))} is"):
        DiffusionTrainOptions(**options)


# ---- what is unusual and allowed -----------------------------------------------------------------


def test_short_clips_are_left_out_with_a_word(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(lengths=(60, 30, 49, 20))
    with caplog.at_level(logging.WARNING):
        result = go(run, max_steps=2, epochs=1)
    assert result.reason == "epochs"  # two clips are left, one batch
    assert "4 clips are shorter than a crop (0.4 s, data.duration) and left out:" in caplog.text
    assert "clips/alice/1.wav" in caplog.text
    # A held-out clip may be short (B7: the original takes its neighbour instead).
    assert "validation" in result.losses


def test_a_net_too_narrow_for_its_mels_is_said(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run()
    for n_chans, said in ((30, True), (32, False)):
        run.edit(model={"n_chans": n_chans})
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            go(run, f"run {n_chans}", max_steps=1)
        assert ("less than twice the 16 mel bands" in caplog.text) == said


def test_nothing_held_out(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run()
    Path("val.txt").write_text("")
    with caplog.at_level(logging.WARNING):
        result = go(run, max_steps=1)
    assert result.best is None
    assert "no held-out clips" in caplog.text


def test_a_device_that_is_not_here_is_said(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The templates say cuda, as the original's do."""
    for where in (
        "svc.training.diffusion_checks.available_devices",
        "svc.devices.available_devices",
    ):
        monkeypatch.setattr(where, lambda: ["cpu"])
    run = make_run(device="cuda")
    with caplog.at_level(logging.WARNING):
        go(run, max_steps=1)
    assert 'the config\'s device "cuda:0" is not on this machine: training on cpu' in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        go(run, max_steps=2, device="cpu")
    assert "not on this machine" not in caplog.text


def test_features_of_the_original_are_trained_on(make_run: MakeRun) -> None:
    """No side-car, pickled F0 and augmented mels."""
    run = make_run()
    cache = FeatureCache(run.settings)
    go(run, "ours", max_steps=3)
    for path in Path("clips").rglob("*.wav"):
        features, mels = cache.load(path), cache.load_mels(path)
        pair = np.empty(2, dtype=object)
        pair[:] = [np.asfortranarray(mels.aug_mel.numpy()), mels.key_shift]
        np.save(f"{path}.aug_mel.npy", pair, allow_pickle=True)
        rows = (features.f0.double().numpy(), features.uv.double().numpy())
        np.save(f"{path}.f0.npy", np.asanyarray(rows, dtype=object), allow_pickle=True)
        Path(f"{path}.meta.json").unlink()
    go(run, "theirs", max_steps=3)
    equal_but_for_the_folder(3, "ours", "theirs")
