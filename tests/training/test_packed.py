"""Training on a pack is training on the files, bit for bit; and what has changed since is refused."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio
from svc.audio.pitch import F0Track
from svc.checkpoint import load_checkpoint
from svc.config.vocoder_training import load_vocoder_run_config
from svc.dataset.feature_settings import FeatureSettings
from svc.dataset.features import FeatureCache, FeaturePaths
from svc.dataset.pack import NAME
from svc.dataset.packing import pack_dataset
from svc.dataset.store import ClipStore, open_store
from svc.dataset.survey import survey
from svc.errors import DatasetError, SvcError
from svc.training import diffusion, diffusion_checks, diffusion_clips, vocoder_clips
from svc.training.batches import EpochBatches, Tensors, choose_workers, stream, stream_of
from svc.training.checks import read_lists
from svc.training.clips import ClipDataset, Memory, plan_memory, stretch_units
from svc.training.diffusion_clips import Cache, DiffusionDataset, crop_frames
from svc.training.diffusion_options import DiffusionTrainOptions
from svc.training.options import TrainOptions
from svc.training.synthesizer import train
from svc.training.vocoder import train_vocoder
from svc.training.vocoder_clips import VocoderDataset, list_clips, read_takes
from svc.training.vocoder_options import VocoderTrainOptions

VOCODER = {
    "resblock": "2", "upsample_rates": [8, 4, 2], "upsample_kernel_sizes": [16, 8, 4],
    "upsample_initial_channel": 32, "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]], "num_mels": 20, "n_fft": 256, "win_size": 256,
    "hop_size": 64, "sampling_rate": 8000, "fmin": 40, "fmax": 3800, "num_workers": 4,
    "train": {"segment_size": 16 * 64, "batch_size": 2, "seed": 7, "vol_aug": True},
}  # fmt: skip


def pack(root: Path, settings: FeatureSettings) -> None:
    report = pack_dataset(root, sorted(root.glob("*/*.wav")), settings)
    assert report.written
    assert report.left_out == []


def pack_voices(voices: Any) -> None:
    pack(voices.root, FeatureCache.from_config(voices.config).settings)


def same(one: Tensors, two: Tensors) -> None:
    """Every field, bit for bit."""
    for name, value in vars(one).items():
        other = getattr(two, name)
        if isinstance(value, torch.Tensor):
            assert value.dtype == other.dtype, name
            assert value.shape == other.shape, name
            assert torch.equal(value, other), name
        else:
            assert value == other, name


def first(batches: Iterator[Any], count: int) -> list[Any]:
    return list(itertools.islice(batches, count))


# ---- the same batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nearest", "left", "nearest-exact", "linear", "area"])
def test_a_stretch_of_units_is_a_part_of_the_whole(mode: str, rng: np.random.Generator) -> None:
    from svc.audio.frames import expand_units

    for count, frames in ((500, 861), (37, 64), (64, 37), (1, 9), (50, 50)):
        units = rng.standard_normal((3, count)).astype(np.float32)
        whole = expand_units(torch.from_numpy(units), frames, mode)
        for start, stop in ((0, frames), (frames // 3, frames // 2 + 1), (frames - 1, frames)):
            packed = np.asfortranarray(units)
            packed.flags.writeable = False
            for array in (units, packed):
                part = stretch_units(array, frames, start, stop, mode)
                assert torch.equal(part, whole[:, start:stop])
                assert part.is_contiguous() or mode in ("linear", "area")


@pytest.mark.parametrize(("mode", "workers"), [("nearest", 2), ("left", 0), ("linear", 0)])
def test_batches_of_a_voice(make_voices: Callable[..., Any], mode: str, workers: int) -> None:
    voices = make_voices(
        lengths=(830, 45),
        model={"vol_embedding": True},
        train={"vol_aug": True},
        data={"unit_interpolate_mode": mode},
    )
    by_files, _ = read_lists(voices.config)
    pack_voices(voices)
    by_pack, _ = read_lists(voices.config)
    assert not by_files.packed
    assert by_pack.packed
    assert (by_pack.paths, by_pack.frames) == (by_files.paths, by_files.frames)
    seen = []
    for checked, memory in (
        (by_files, Memory(clips=False, specs=False)),
        (by_pack, Memory(clips=False, specs=False)),
        (by_files, Memory(clips=True, specs=False)),
    ):
        dataset = ClipDataset(
            voices.config, checked.paths, augment=True, seed=2, memory=memory, store=checked.store
        )
        if memory.clips:
            dataset.preload()
        order = EpochBatches(checked.frames, 2, seed=2)
        seen.append(first(stream(dataset, order, workers=workers, pin=False), 4))
    for one, two, three in zip(*seen, strict=True):
        same(one, two)
        same(one, three)
    kept = [
        ClipDataset(voices.config, c.paths, augment=True, memory=m, store=c.store)
        for c, m in ((by_files, Memory(True, True)), (by_pack, Memory(False, True)))
    ]
    for index, epoch in itertools.product(range(len(by_files.paths)), (1, 2)):
        one, two = (vars(dataset.clip(index, epoch)) for dataset in kept)
        assert all(
            torch.equal(one[name], two[name]) if isinstance(one[name], torch.Tensor) else True
            for name in one
        )


def test_batches_of_a_vocoder(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(lengths=(60, 45, 70))
    Path("vocoder.json").write_text(json.dumps(VOCODER))
    config, seen = load_vocoder_run_config("vocoder.json"), []
    for packed in (False, True):
        if packed:
            pack_voices(voices)
        takes = read_takes(config, voices.root, list_clips(voices.root))
        assert takes.packed == packed
        dataset = VocoderDataset(config, takes, seed=3, limit=0)
        order = EpochBatches([16] * len(dataset), 2, seed=3)
        seen.append(
            first(stream_of(dataset, order, vocoder_clips.collate, workers=0, pin=False), 12)
        )
        assert dataset.whole(0, 1000).mel.shape == (20, takes.frames[0])
    for one, two in zip(*seen, strict=True):
        same(one, two)


@pytest.mark.parametrize("half", [None, False, True])
def test_batches_of_a_diffusion_model(make_run: Callable[..., Any], half: bool | None) -> None:
    run = make_run()
    cache, seen, kept = None, [], []
    if half is not None:
        cache = Cache(torch.device("cpu"), half=half)
    for packed in (False, True):
        if packed:
            pack(Path("clips"), run.settings)
        lists = diffusion_checks.read_lists(run.config, run.settings)
        assert lists.training.packed == packed
        dataset = DiffusionDataset(
            run.config, run.settings, lists.training.paths,
            seed=4, cache=cache, store=lists.training.store,
        )  # fmt: skip
        kept.append(dataset.keeps)
        order = EpochBatches([crop_frames(run.config)] * len(dataset), 2, seed=4)
        seen.append(
            first(stream_of(dataset, order, diffusion_clips.collate, workers=0, pin=False), 9)
        )
    for one, two in zip(*seen, strict=True):
        same(one, two)
    # What lies in a pack is not kept in memory a second time, and yet rounded alike.
    assert kept == [cache, None]
    assert seen[0][0].mel.dtype == (torch.float16 if half else torch.float32)


def test_memory_and_processes(make_voices: Callable[..., Any]) -> None:
    """The page cache keeps a pack, and all processes share it; spectrograms are kept if they fit."""
    voices = make_voices(lengths=(60, 45, 70, 52, 48))
    pack_voices(voices)
    training, _ = read_lists(voices.config)
    config, frames = voices.config, training.frames
    specs = 4 * 129 * sum(frames)
    assert plan_memory(config, frames, packed=True, limit=specs) == Memory(False, True)
    assert plan_memory(config, frames, packed=True, limit=specs - 1) == Memory(False, False)
    asked = voices.edit(train={"all_in_mem": True})
    assert plan_memory(asked, frames, packed=True, limit=0) == Memory(False, True)
    many = ClipDataset(
        config, training.paths * 3, augment=True, store=training.store, memory=Memory(False, True)
    )
    assert choose_workers(many, cpus=16) == 5
    many.preload()
    sent = pickle.dumps(many)
    assert len(sent) < 20_000 < specs
    again = pickle.loads(sent)
    assert again.memory == Memory(False, False)
    assert torch.equal(again.clip(3, 2).wav, many.clip(3, 2).wav)


# ---- what has changed since ----------------------------------------------------------------------


def refuse(voices: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read_lists(voices.config)
    assert "\n" not in str(caught.value)


def replace_clip(path: Path, frames: int = 60) -> None:
    write_audio(path, 0.5 * np.sin(np.arange(frames * 64 + 10) / 9).astype(np.float32), 8000)


def test_a_recording_that_has_changed(voices: Any) -> None:
    pack_voices(voices)
    replace_clip(voices.files()[0])
    refuse(voices, r"alice/0\.wav has changed since its features were made; run  svc preprocess --")
    for path in voices.files("bob"):
        replace_clip(path, 50)
    refuse(
        voices,
        r"^train\.txt: 5 of 8 clips \(.*alice/0\.wav, .*bob/0\.wav, .* and 2 more\) have changed since "
        r"their features were made; run  svc preprocess --stage features$",
    )


def test_features_that_were_made_anew(voices: Any) -> None:
    pack_voices(voices)
    cache = FeatureCache.from_config(voices.config)
    track = F0Track(np.full(60, 222, np.float32), np.ones(60, np.float32))
    cache.save_edited_f0(voices.files()[0], track, "curve.csv")
    refuse(
        voices,
        r"alice/0\.wav: its feature files were made anew after .*features\.pack; run  "
        r"svc preprocess --stage pack$",
    )
    # What a trainer does not read does not matter to it.
    pack_voices(voices)
    FeaturePaths.of(voices.files()[0]).volume.write_bytes(b"changed")
    assert read_lists(voices.config)[0].packed


def test_a_copied_data_set_is_compared_by_its_content(voices: Any) -> None:
    pack_voices(voices)
    assert not any("compare" in text for text in read_lists(voices.config)[0].notes)
    for path in voices.root.rglob("*.*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    training, _ = read_lists(voices.config)
    assert training.packed
    assert any(
        text.startswith("train.txt: 8 clips have files of another time") for text in training.notes
    )
    pack_voices(voices)
    assert not any("another time" in text for text in read_lists(voices.config)[0].notes)
    # One sample of the same file size.
    path = voices.files()[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refuse(voices, r"alice/1\.wav has changed")


def test_an_archive_that_keeps_whole_seconds_changes_nothing(voices: Any) -> None:
    pack_voices(voices)
    for path in voices.root.rglob("*.*"):
        seconds = path.stat().st_mtime_ns // 10**9
        os.utime(path, (seconds, seconds))
    training, _ = read_lists(voices.config)
    assert not any("another time" in text for text in training.notes)


def test_another_encoder_or_grid(voices: Any) -> None:
    pack_voices(voices)
    voices.edit(model={"speech_encoder": "whisper-ppg-base", "ssl_dim": 512})
    refuse(
        voices,
        r'^train\.txt: 8 of 8 clips \(.* and 5 more\): their units were made with "whisper-ppg-tiny", '
        r'the config says "whisper-ppg-base"; run  svc preprocess --stage features$',
    )
    settings = replace(FeatureCache.from_config(voices.config).settings, hop_length=32)
    store = open_store(settings, ("f0",), voices.files())
    with pytest.raises(DatasetError, match="their features are for 8000 Hz and hop 64, the config"):
        survey(Path("train.txt"), voices.files(), store)


def test_a_pack_that_is_damaged_or_lacks_clips(voices: Any, make_voices: Any) -> None:
    clips = sorted(voices.root.glob("*/*.wav"))
    settings = FeatureCache.from_config(voices.config).settings
    pack_dataset(voices.root, clips[2:], settings)
    training, _ = read_lists(voices.config)
    (note,) = (text for text in training.notes if "clips of train.txt" in text)
    assert "features.pack; 2 are not in it" in note
    assert "alice/0.wav" in note
    dataset = ClipDataset(voices.config, training.paths, augment=True, store=training.store)
    assert [dataset.clip(index, 1).frames for index in range(4)] == training.frames[:4]
    (voices.root / NAME).write_bytes(b"\x93SVCPACK")
    refuse(voices, r"features\.pack is not a pack of features; delete it, or run  svc preprocess")


def test_a_pack_may_stand_alone(voices: Any, make_run: Callable[..., Any]) -> None:
    """On another machine, with the lists and the config: no recordings, no feature files."""
    pack_voices(voices)
    seen = []
    for alone in (False, True):
        if alone:
            for folder in voices.root.iterdir():
                if folder.is_dir():
                    shutil.rmtree(folder)
        training, validation = read_lists(voices.config)
        assert any("stands alone" in text for text in training.notes) == alone
        dataset = ClipDataset(voices.config, training.paths, augment=True, store=training.store)
        seen.append(
            (training.frames, validation.frames, [dataset.clip(n, 1).wav for n in range(8)])
        )
    assert seen[0][:2] == seen[1][:2]
    assert all(map(torch.equal, seen[0][2], seen[1][2]))


def test_where_some_recordings_are_left_the_others_are_missed(voices: Any) -> None:
    pack_voices(voices)
    voices.files()[1].unlink()
    refuse(voices, r"1 of 8 clips of train\.txt are not there: .*1\.wav")
    shutil.rmtree(voices.root / "alice")
    refuse(voices, r"4 of 8 clips of train\.txt are not there")


def test_thousands_of_clips_are_looked_over_in_a_second(
    make_voices: Callable[..., Any], tmp_path: Path
) -> None:
    """Of 400 clips, in the time of this process: the others of the machine do not count."""
    voices = make_voices(lengths=(24, 24))
    source = voices.files()[0]
    ours = {**vars(FeaturePaths.of(source)), "wav": source}
    paths = []
    for number in range(400):
        target = source.with_name(f"c{number}.wav")
        for part, path in ours.items():
            if path.is_file():
                os.link(path, getattr(FeaturePaths.of(target), part, target))
        paths.append(target)
    Path("train.txt").write_text("".join(f"{path}\n" for path in paths))
    pack_voices(voices)
    times = []
    for _ in range(2):
        began = time.process_time()
        assert len(read_lists(voices.config)[0].paths) == 400
        times.append(time.process_time() - began)
    assert min(times) < 400 / 2000, times


def test_errors_of_single_clips_are_those_of_files(voices: Any) -> None:
    """A list that was not looked over: what a loader finds is one line."""
    dataset = ClipDataset(voices.config, [voices.root / "alice/none.wav"], augment=True)
    assert isinstance(dataset[1, 0], SvcError)
    store = ClipStore(FeatureCache.from_config(voices.config).settings)
    with pytest.raises(SvcError, match=r"none\.wav"):
        store.length(voices.root / "alice/none.wav")


# ---- whole runs ----------------------------------------------------------------------------------


def weights(path: Path, key: str = "model") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(path)[key]
    return found


def equal_runs(files: Path, packed: Path, log: str) -> None:
    """Two runs, the second on a pack, are one run; and each says what it reads."""
    one, two = (weights(path) for path in (files, packed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    texts = [path.with_name(log).read_text(encoding="utf-8") for path in (files, packed)]
    assert "are read from their files" in texts[0]
    assert "features.pack\n" in texts[1]
    assert "are read from their files" not in texts[1]


@pytest.mark.usefixtures("no_pictures")
def test_a_voice_is_the_same_from_a_pack(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(
        lengths=(60, 30, 24), model={"vol_embedding": True}, train={"vol_aug": True}
    )
    for name in ("files", "pack"):
        if name == "pack":
            pack_voices(voices)
            for path in voices.root.glob("*/*.soft.pt"):
                path.unlink()  # nothing but the pack is read
        train(TrainOptions(model=name, config=voices.config_path, device="cpu", max_steps=2))
    equal_runs(Path("logs/files/G_2.pth"), Path("logs/pack/G_2.pth"), "train.log")


@pytest.mark.usefixtures("no_pictures")
def test_a_vocoder_is_the_same_from_a_pack(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(lengths=(60, 45))
    Path("vocoder.json").write_text(json.dumps(VOCODER))
    for name in ("files", "pack"):
        if name == "pack":
            pack_voices(voices)
            for path in voices.root.glob("*/*.f0.npy"):
                path.unlink()
        train_vocoder(
            VocoderTrainOptions(
                output=Path(name),
                dataset=Path("train.txt"),
                config=Path("vocoder.json"),
                device="cpu",
                max_steps=2,
                val_clips=1,
            )
        )
    equal_runs(Path("files/V_2.pth"), Path("pack/V_2.pth"), "train.log")


@pytest.mark.usefixtures("no_pictures")
def test_a_diffusion_model_is_the_same_from_a_pack(make_run: Callable[..., Any]) -> None:
    run = make_run(weights=True, train={"cache_fp16": True})
    for name in ("files", "pack"):
        if name == "pack":
            pack(Path("clips"), run.settings)
            for path in Path("clips").glob("*/*.aug_mel.npy"):
                path.unlink()
        diffusion.train(
            DiffusionTrainOptions(config=run.config_path, expdir=Path(name), max_steps=2)
        )
    equal_runs(Path("files/model_2.pt"), Path("pack/model_2.pt"), "log_info.txt")
