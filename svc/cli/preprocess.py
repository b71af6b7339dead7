"""`svc preprocess`: file lists, configs and features of a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from svc.cli.options import (
    add_argument,
    add_device,
    add_encoder_precision,
    add_gpus,
    add_seed,
    f0_predictor,
    f0_predictor_help,
)
from svc.cli.progress import progress_bar
from svc.cli.report import count, left_out

if TYPE_CHECKING:
    from svc.dataset.preprocess import PreprocessOptions, PreprocessReport
    from svc.training.ranks import Ranks

NAME = "preprocess"
HELP = "file lists, configs and features of a dataset"
_PATIENCE = 86400  # seconds that processes wait for the one with the longest clips


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags (spec_core 6.3 and 6.4, and ours)."""
    add_argument(
        parser,
        "--stage",
        choices=("all", "config", "features", "pack"),
        default="all",
        help="config: check the clips, write file lists, config.json and diffusion.yaml; features: "
        "compute what is absent or out of date for the config there is, and pack; pack: put "
        "recordings and features, also those of so-vits-svc 4.1, into one file (default: all)",
    )
    add_argument(
        parser,
        "--source_dir",
        "--in_dir",
        dest="source_dir",
        type=Path,
        default=Path("dataset/44k"),
        metavar="DIR",
        help="one sub-folder of clips per voice (default: dataset/44k)",
    )
    _add_config_arguments(parser.add_argument_group("file lists and configs"))
    _add_feature_arguments(parser.add_argument_group("features"))


def _add_config_arguments(group: argparse._ArgumentGroup) -> None:
    add_argument(
        group,
        "--train_list",
        type=Path,
        default=Path("filelists/train.txt"),
        metavar="FILE",
        help="default: filelists/train.txt",
    )
    add_argument(
        group,
        "--val_list",
        type=Path,
        default=Path("filelists/val.txt"),
        metavar="FILE",
        help="two clips per voice, never the last one (default: filelists/val.txt)",
    )
    add_argument(
        group,
        "-c",
        "--config",
        type=Path,
        default=Path("configs/config.json"),
        metavar="FILE",
        help="config to write, or to read for --stage features; diffusion.yaml lies beside it "
        "(default: configs/config.json)",
    )
    add_argument(
        group,
        "--template",
        metavar="NAME",
        help="config to start from: template.json, template_tiny.json, template_quick.json or a "
        "path (default: template.json)",
    )
    add_argument(
        group,
        "--speech_encoder",
        metavar="NAME",
        help="content encoder, see  svc encoders : vec768l12, whisper-ppg-tiny (needs no download), "
        "...; two joined by + are fused: vec768l12+whisper-ppg-tiny (default: the template's, "
        "vec768l12)",
    )
    add_argument(
        group,
        "--encoder_path",
        metavar="PATH",
        help="weights of the encoder when they are not the usual ones in pretrain/, a file or a "
        "Hugging Face folder; for fused encoders ID=PATH[,ID=PATH]; the config records it",
    )
    add_argument(
        group,
        "--vocoder",
        metavar="PATH",
        help="mel vocoder of the diffusion model, its weights or their folder, for diffusion.yaml "
        "(default: the template's, pretrain/nsf_hifigan/model)",
    )
    add_argument(
        group, "--vol_aug", action="store_true", help="volume embedding and volume augmentation"
    )
    add_argument(group, "--tiny", action="store_true", help="the smaller model")
    add_seed(group, 1234)


def _add_feature_arguments(group: argparse._ArgumentGroup) -> None:
    add_device(group)
    add_gpus(group, "share the clips")
    add_argument(
        group,
        "--f0_predictor",
        type=f0_predictor,
        default="fcpe",
        metavar="NAME",
        help=f0_predictor_help("fcpe"),
    )
    add_argument(
        group, "--f0_min", type=float, default=50.0, metavar="HZ", help="lowest pitch (default: 50)"
    )
    add_argument(
        group,
        "--f0_max",
        type=float,
        default=1100.0,
        metavar="HZ",
        help="highest pitch (default: 1100)",
    )
    add_argument(
        group,
        "--overwrite_f0",
        action="store_true",
        help="compute the F0 anew also of clips that  svc f0 apply  gave an edited one",
    )
    add_encoder_precision(group)
    add_argument(
        group,
        "--encoder_batch",
        type=int,
        metavar="N",
        help="clips encoded at a time (default: 1 on the CPU, 8 elsewhere)",
    )
    add_argument(
        group,
        "--num_processes",
        "--jobs",
        dest="num_processes",
        type=int,
        default=1,
        metavar="N",
        help="processes, each with an encoder of its own; 0 = one per CPU (default: 1)",
    )
    add_argument(
        group,
        "--use_diff",
        action="store_true",
        help="write what  svc train-diff  needs too: mels, and a copy of each changed in pitch and "
        "loudness; needs config.json of the mel vocoder",
    )
    add_argument(
        group,
        "--spec_cache",
        action="store_true",
        help="write .spec.pt too, for training with the original program; svc train computes "
        "spectrograms anew, which is faster than reading 3.5 MB per 10 s of audio from a disk",
    )
    add_argument(
        group,
        "--no_pack",
        action="store_true",
        help="do not write features.pack beside the folders of the voices, the one file that "
        "training reads instead of thousands; it is as large as all of them",
    )


def run(args: argparse.Namespace) -> int:
    """Prepare the data set; returns 0, or 1 when a clip could not be used."""
    from svc.training.ranks import Ranks

    with Ranks.from_environment(patience=_PATIENCE) as ranks:
        return _run(args, ranks)


def _run(args: argparse.Namespace, ranks: Ranks) -> int:
    from svc.dataset.configs import ConfigOptions
    from svc.dataset.preprocess import PreprocessOptions, preprocess
    from svc.threads import cpu_count

    jobs = args.num_processes
    if jobs == 0 and ranks.world > 1:
        jobs = max(1, cpu_count() // ranks.local_world)  # of the CPUs that are this process' share
    options = PreprocessOptions(
        in_dir=args.source_dir,
        configs=ConfigOptions(
            config_path=args.config,
            train_list=args.train_list,
            val_list=args.val_list,
            template=args.template,
            speech_encoder=args.speech_encoder,
            encoder_path=args.encoder_path,
            vol_aug=args.vol_aug,
            tiny=args.tiny,
            vocoder=args.vocoder,
        ),
        stage=args.stage,
        seed=args.seed,
        f0_predictor=args.f0_predictor,
        f0_min=args.f0_min,
        f0_max=args.f0_max,
        overwrite_f0=args.overwrite_f0,
        device=ranks.device(args.device),
        encoder_precision=args.encoder_precision,
        encoder_batch=args.encoder_batch,
        jobs=jobs,
        use_diff=args.use_diff,
        spec_cache=args.spec_cache,
        pack=not args.no_pack,
    )
    with (
        progress_bar("check") as checking,
        progress_bar("features") as extracting,
        progress_bar("pack") as packing,
    ):
        report = preprocess(
            options, extracting, check_progress=checking, pack_progress=packing, processes=ranks
        )
    _print_report(report, options)
    return 1 if report.left_out else 0


def _print_report(report: PreprocessReport, options: PreprocessOptions) -> None:
    for item in report.left_out:
        print(left_out(item.path, item.reason))
    for note in report.notes:
        print(f"note: {note}")
    for name, speaker in report.speakers.items():
        print(
            f"{name} (id {speaker.speaker_id}): {speaker.train} training and "
            f"{speaker.validation} validation clips, {speaker.seconds / 60:.1f} min"
        )
    if options.stage in ("all", "config"):
        lists = options.configs
        print(
            f"wrote {lists.train_list}, {lists.val_list}, {lists.config_path}, "
            f"{lists.diffusion_path}"
        )
    if options.stage in ("all", "features"):
        print(f"features: {count(report.computed, 'clip')} computed, {report.fresh} up to date")
    pack = report.pack
    if pack is not None:
        changes = f"{pack.added} added, {pack.removed} removed" if pack.written else "up to date"
        held = f"{count(pack.added + pack.kept, 'clip')}, {pack.size / 1e6:.0f} MB"
        print(f"pack: {pack.path}: {held}; {changes}")
    if report.left_out:
        print(f"{count(len(report.left_out), 'clip')} left out")
