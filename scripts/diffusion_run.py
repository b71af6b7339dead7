"""Does shallow diffusion help? Train a small voice, a small vocoder and a small diffusion model on real
recordings, and measure on held-out clips how far the mel is from that of the recording, before and after.

    python scripts/diffusion_run.py FOLDER [FOLDER ...] --work DIR --minutes 30

Each FOLDER holds the recordings of one voice, whose name is the folder's. Every command of svc that runs is printed
with a $ before it. The same call again goes on where the last one stopped, so more --minutes continue the training.
What is measured, for each held-out clip (the voice sings it with the clip's own units, pitch and loudness):

    voice       mean |log-mel of what the voice sings - log-mel of the recording|, over all bands and frames
    k_step K    the same after the diffusion model has gone over that mel with K steps of noise (svc infer -shd -ks K)
    sung K      the same of the audio that the vocoder makes of it, where a vocoder was trained
    copy        the same of the audio that the vocoder makes of the recording's own mel
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LONG_SECONDS = 15.0  # recordings longer than this are cut into clips first
PARTS = ("voice", "vocoder", "diffusion")
SMALL: dict[str, dict[str, Any]] = {
    "model": {"n_layers": 4, "n_chans": 256, "n_hidden": 128, "k_step_max": 100},
    "data": {"duration": 1.0},
    "train": {
        "batch_size": 4, "lr": 5e-4, "decay_step": 8000, "gamma": 0.6, "interval_log": 100,
        "interval_val": 1000, "cache_fp16": False, "save_opt": True,
    },
}  # fmt: skip
"""What is smaller than in the template of the diffusion config: 2.5 million multiplications per frame
instead of 48, and only the last 100 steps of noise, which is what refining needs. 256 channels are the
least for 128 mel bands: the first layer keeps positive values only, so a narrower net loses part of the
noise it has to tell (with 96 channels the loss stayed at 0.49). With a rate of 1e-3 a run on real singing
learnt well for 5700 steps, then told no noise at all (loss 1) and did not come back.
"""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--work", required=True, type=Path, metavar="DIR", help="gets everything")
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="of training, for each part (default: 30)"
    )
    for part in PARTS:
        parser.add_argument(f"--{part}_minutes", type=float, help="of this part; 0 leaves it out")
    parser.add_argument("--held_out", type=int, default=8, help="clips not trained on (default: 8)")
    parser.add_argument("--k_steps", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--device", help="as svc -d (default: the best one)")
    parser.add_argument("--threads", type=int, help="on the CPU, as svc train --threads")
    return parser.parse_args(words)


def svc(work: Path, *words: object, may_leave_out: bool = False) -> None:
    """Run a command of svc in the work folder; print it first."""
    command = [str(word) for word in words]
    print("$ svc", shlex.join(command), flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = subprocess.run(
        [sys.executable, "-m", "svc", *command], cwd=work, env=environment, check=False
    ).returncode
    if code != 0 and not (code == 1 and may_leave_out):
        raise SystemExit(f"svc {command[0]} failed, see above")


# ---- data ----------------------------------------------------------------------------------------


def collect(folders: Sequence[Path], work: Path) -> None:
    """Copy the recordings: short ones to dataset_raw/<voice>, long ones to long/<voice>."""
    from svc.audio.io import audio_info, list_audio

    for folder in folders:
        files = list_audio(folder, recursive=True) if folder.is_dir() else []
        if not files:
            raise SystemExit(f"{folder} is no folder with recordings of a voice")
        for path in files:
            place = "long" if audio_info(path).duration_s > LONG_SECONDS else "dataset_raw"
            target = work / place / folder.resolve().name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def hold_out(work: Path, count: int) -> None:
    """Move clips from the training to the validation list until it has `count`, evenly over all."""
    from svc.dataset.filelist import read_filelist, write_filelist

    lists = [work / "filelists" / name for name in ("train.txt", "val.txt")]
    training, validation = (read_filelist(path) for path in lists)
    missing = max(0, min(count - len(validation), len(training) // 2))
    moved = {training[number * len(training) // missing] for number in range(missing)}
    write_filelist(lists[0], [path for path in training if path not in moved])
    write_filelist(lists[1], [*validation, *sorted(moved)])


def shrink(work: Path) -> None:
    """Make the diffusion model of the config a small one."""
    import yaml

    path = work / "configs" / "diffusion.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in SMALL.items():
        raw[section] |= values
    raw["env"]["expdir"] = "logs/diffusion"
    path.write_text(yaml.safe_dump(raw, allow_unicode=True, sort_keys=False), encoding="utf-8")


def prepare(options: argparse.Namespace, work: Path, common: Sequence[str]) -> None:
    """Make clips, lists, configs and features; once."""
    from svc.config import find_template

    done = work / "prepared"
    if done.is_file():
        return
    vocoder = work / "vocoder"
    vocoder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(find_template("template_vocoder_small.json"), vocoder / "config.json")
    collect(options.recordings, work)
    if (work / "long").is_dir():
        svc(work, "slice", "--in_dir", "long", "--out_dir", "dataset_raw", may_leave_out=True)
    svc(work, "resample", may_leave_out=True)
    preprocess = [
        "preprocess", "--template", "template_quick.json", "--speech_encoder", "whisper-ppg-tiny",
        "--f0_predictor", "pm", "--vocoder", "vocoder", "--use_diff", *common,
    ]  # fmt: skip
    svc(work, *preprocess, may_leave_out=True)
    hold_out(work, options.held_out)
    shrink(work)
    done.touch()


# ---- training ------------------------------------------------------------------------------------


def train(options: argparse.Namespace, work: Path, common: Sequence[str]) -> None:
    minutes = {part: getattr(options, f"{part}_minutes") for part in PARTS}
    minutes = {part: options.minutes if m is None else m for part, m in minutes.items()}
    common = [*common, *(["--threads", str(options.threads)] if options.threads else [])]
    if minutes["vocoder"] > 0:
        svc(
            work, "train-vocoder", "--dataset", "filelists/train.txt", "--validation",
            "filelists/val.txt", "-o", "vocoder", "-c", "vocoder/config.json", "--max_minutes",
            minutes["vocoder"], *common,
        )  # fmt: skip
    if minutes["voice"] > 0:
        svc(work, "train", "-m", "voice", "--max_minutes", minutes["voice"], *common)
    if minutes["diffusion"] > 0:
        svc(work, "train-diff", "--max_minutes", minutes["diffusion"], *common)


# ---- measuring -----------------------------------------------------------------------------------


def measure(work: Path, k_steps: Sequence[int], device: str | None) -> dict[str, Any]:
    """Measure every held-out clip; returns {"clips": {name: {column: distance}}, "steps": ...}."""
    import torch

    from svc.checkpoint import find_latest
    from svc.config import load_config, load_vocoder_config
    from svc.dataset.features import FeatureCache
    from svc.dataset.filelist import read_filelist
    from svc.devices import resolve_device
    from svc.diffusion import load_diffusion
    from svc.synthesizer.loading import load_synthesizer
    from svc.training.diffusion_checks import feature_settings, open_vocoder
    from svc.training.diffusion_clips import DiffusionDataset, batch_of
    from svc.training.diffusion_files import BEST, list_models
    from svc.vocoder.nsf_hifigan import log_mel_of

    where = resolve_device(device)
    config = load_config("configs/config.json")
    newest = find_latest("logs/voice", "G")
    models = list_models(Path("logs/diffusion") / BEST) or list_models(Path("logs/diffusion"))
    if newest is None or not models:
        raise SystemExit("a voice and a diffusion model are needed: give both some minutes")
    voice = load_synthesizer(newest, config, device=where)
    diffusion, settings = load_diffusion(models[max(models)], device=where)
    vocoder, _ = open_vocoder(settings, where)
    log_mel = log_mel_of(load_vocoder_config(Path(settings.vocoder.ckpt, "config.json")))
    features = feature_settings(settings)
    cache = FeatureCache(features)
    paths = read_filelist(Path(settings.data.validation_files))
    clips, rows = DiffusionDataset(settings, features, paths), dict[str, dict[str, float]]()
    for index, path in enumerate(paths):
        batch = batch_of([clips.whole(index, 2000)]).to(where)
        truth, n_frames = batch.mel.transpose(1, 2), batch.f0.shape[1]
        uv = cache.load(path).uv[None, :n_frames].to(where)
        torch.manual_seed(index)
        with torch.no_grad():
            wav, _ = voice.infer(
                batch.units.transpose(1, 2), batch.f0, uv,
                torch.tensor([config.spk[path.parent.name]], device=where),
                volume=batch.volume if config.model.vol_embedding else None,
            )  # fmt: skip
        sung = log_mel(wav[:, 0].float())[..., :n_frames]
        row = {"voice": float((sung - truth).abs().mean())}
        for k_step in k_steps:
            refined = diffusion.infer(
                batch.units, batch.f0, batch.volume, batch.speaker, mel=sung, k_step=k_step,
                method=settings.infer.method, speedup=settings.infer.speedup,
                generator=torch.Generator().manual_seed(index),
            )  # fmt: skip
            row[f"k_step {k_step}"] = float((refined - truth).abs().mean())
            if vocoder is not None:
                with torch.no_grad():
                    again = vocoder(refined, batch.f0, generator=torch.Generator().manual_seed(0))
                row[f"sung {k_step}"] = float((log_mel(again)[..., :n_frames] - truth).abs().mean())
        if vocoder is not None:
            with torch.no_grad():
                copy = vocoder(truth, batch.f0, generator=torch.Generator().manual_seed(0))
            row["copy"] = float((log_mel(copy)[..., :n_frames] - truth).abs().mean())
        rows[f"{path.parent.name}/{path.stem}"] = row
    steps = {"voice": newest.name, "diffusion": f"model_{max(models)}.pt"}
    return {"clips": rows, "models": steps, "vocoder": vocoder is not None}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table: a row per clip, their mean, and how many are nearer than before."""
    columns = list(next(iter(rows.values())))
    mean = {name: sum(row[name] for row in rows.values()) / len(rows) for name in columns}
    lines = ["| clip | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for clip, row in [*rows.items(), ("**mean**", mean)]:
        lines.append(f"| {clip} | " + " | ".join(f"{row[name]:.3f}" for name in columns) + " |")
    better = [sum(row[name] < row["voice"] for row in rows.values()) for name in columns]
    shown = ["-", *(f"{count} of {len(rows)}" for count in better[1:])]
    change = ["-", *(f"{mean[name] / mean['voice'] - 1:+.0%}" for name in columns[1:])]
    lines += [
        f"| nearer than the voice | {' | '.join(shown)} |",
        f"| change | {' | '.join(change)} |",
    ]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    sys.path.insert(0, str(ROOT))
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    options.recordings = [folder.resolve() for folder in options.recordings]
    common = ["-d", options.device] if options.device else []
    prepare(options, work, common)
    train(options, work, common)
    os.chdir(work)  # the paths of file lists and configs count from there
    result = measure(work, options.k_steps, options.device)
    text = "\n".join([
        f"Mean |difference| of natural-log mels to the recording; {result['models']['voice']}, "
        f"{result['models']['diffusion']}.", "", table(result["clips"]),
    ])  # fmt: skip
    Path("result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    Path("result.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nwritten to {work / 'result.md'} and result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
