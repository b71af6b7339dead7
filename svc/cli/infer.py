"""`svc infer`: songs in, the same songs sung by a trained voice out."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from svc.cli.options import (
    F0_THRESHOLD_HELP,
    add_argument,
    add_device,
    add_encoder_precision,
    add_seed,
    f0_predictor_help,
)
from svc.cli.progress import progress_bar
from svc.errors import ConfigError, SvcError

if TYPE_CHECKING:
    from svc.conversion.files import Outcome
    from svc.conversion.options import InferOptions

NAME = "infer"
HELP = "sing songs with a trained voice"

OUTPUT_DIR = Path("results")

_DIFFUSION_PATH = "logs/44k/diffusion/model_0.pt"
_DIFFUSION_CONFIG = "logs/44k/diffusion/config.yaml"
_K_STEP = 100
_F0_PREDICTOR = "pm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of so-vits-svc 4.1 under their names (spec_core 8.7), and ours."""
    group = parser.add_argument_group("voice")
    flag = partial(add_argument, group)
    flag("-m", "--model_path", metavar="FILE", help="checkpoint (default: newest logs/44k/G_*.pth)")
    flag("-c", "--config_path", metavar="FILE", help="its config (default: config.json beside it)")
    text = "voices, by name or number; each sings every song (default: the model's only voice)"
    flag("-s", "--spk_list", metavar="NAME", nargs="+", help=text)
    text = (
        "weights of the speech encoder, a file or a Hugging Face folder; for two fused encoders "
        "ID=PATH[,ID=PATH] (default: as the config says, else their place under pretrain/)"
    )
    flag("--encoder_path", metavar="PATH", help=text)
    add_encoder_precision(group)
    add_device(group)

    flag = partial(add_argument, parser.add_argument_group("songs"))
    text = "names under raw/ (.wav may be left out), paths of audio files, or folders"
    flag("-n", "--clean_names", metavar="NAME", nargs="+", required=True, help=text)
    text = f"folder of the results (default: {OUTPUT_DIR})"
    flag("--output_dir", metavar="FOLDER", type=Path, default=OUTPUT_DIR, help=text)
    text = "name the result yourself; only for one song and one voice"
    flag("--output", metavar="FILE", type=Path, help=text)
    text = "flac, wav, ogg or mp3 (default: flac)"
    flag("-wf", "--wav_format", metavar="FORMAT", default="flac", help=text)

    flag = partial(add_argument, parser.add_argument_group("melody"))
    text = (
        "transposition of each song, missing ones take the first value; auto: what brings the song "
        "into the voice's range, auto-octave: the same in whole octaves, which keep the key of the "
        "accompaniment (default: 0)"
    )
    names = ("-t", "--trans", "--transpose")
    flag(*names, metavar="SEMITONES", type=_transposition, nargs="+", default=[0.0], help=text)
    text = "let the voice choose its own pitch: for speech; singing goes out of tune"
    flag("-a", "--auto_predict_f0", action="store_true", help=text)
    text = (
        "a pitch curve to sing, from  svc f0 extract  and edited, CSV or MIDI; for several songs a "
        "folder of curves named after them; -t is added to it"
    )
    flag("--f0", metavar="FILE", type=Path, help=text)
    text = f0_predictor_help(_F0_PREDICTOR)
    flag("-f0p", "--f0_predictor", metavar="NAME", default=_F0_PREDICTOR, help=text)
    text = "lowest pitch looked for (default: 50)"
    flag("--f0_min", metavar="HZ", type=float, default=50.0, help=text)
    text = "highest pitch looked for (default: 1100)"
    flag("--f0_max", metavar="HZ", type=float, default=1100.0, help=text)
    flag("-ft", "--f0_filter_threshold", metavar="X", type=float, help=F0_THRESHOLD_HELP)

    group = parser.add_argument_group("sound")
    flag = partial(add_argument, group, metavar="X", type=float)
    text = "amount of chance in the voice's detail (default: 0.4)"
    names = ("-ns", "--noice_scale", "--noise_scale")
    flag(*names, dest="noise_scale", default=0.4, help=text)
    text = "1 = the voice's own loudness, 0 = the source's, moment by moment (default: 1)"
    flag("-lea", "--loudness_envelope_adjustment", default=1.0, help=text)
    add_seed(group, 52468)

    group = parser.add_argument_group("cutting")
    flag = partial(add_argument, group, metavar="SECONDS", type=float)
    text = "softer than this is silence (default: -40; -50 keeps breaths, -30 suits noisy audio)"
    flag("-sd", "--slice_db", metavar="DB", default=-40.0, help=text)
    text = "also cut every so many seconds; 0 = at silences only (default: 0)"
    flag("-cl", "--clip", default=0.0, help=text)
    flag("-lg", "--linear_gradient", default=0.0, help="overlap of those forced cuts (default: 0)")
    text = "share of the overlap that is cross-faded, above 0, at most 1 (default: 0.75)"
    flag("-lgr", "--linear_gradient_retain", metavar="X", default=0.75, help=text)
    text = "context rendered around every stretch and cut off again (default: 0.5)"
    flag("-p", "--pad_seconds", default=0.5, help=text)
    text = (
        "longest stretch rendered at once, bounds memory; 0 = no limit (default: what suits the "
        "speech encoder, 14 for Whisper, 29 for the others)"
    )
    flag("--max_chunk", default=None, help=text)
    text = "cut, join and round exactly as so-vits-svc 4.1 did, its faults included"
    add_argument(group, "--compat", action="store_true", help=text)
    _add_later(parser)


def _transposition(text: str) -> float | str:
    """Read one value of -t."""
    word = text.strip().lower()
    try:
        return word if word in ("auto", "auto-octave") else float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'"{text}" is neither a number of semitones nor auto nor auto-octave'
        ) from None


def _add_later(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser.add_argument_group("not in this version yet"))
    flag("-cm", "--cluster_model_path", metavar="FILE", default="", help="timbre model")
    flag("-cr", "--cluster_infer_ratio", metavar="X", type=float, default=0.0, help="its share")
    flag("-fr", "--feature_retrieval", action="store_true", help="retrieval index")
    flag("-eh", "--enhance", action="store_true", help="NSF-HiFiGAN enhancer")
    flag("-eak", "--enhancer_adaptive_key", metavar="N", type=int, default=0, help="its shift")
    flag("-usm", "--use_spk_mix", action="store_true", help="mix of speakers over time")
    flag("-shd", "--shallow_diffusion", action="store_true", help="shallow diffusion")
    flag("-od", "--only_diffusion", action="store_true", help="diffusion alone")
    flag("-dm", "--diffusion_model_path", metavar="FILE", default=_DIFFUSION_PATH, help="its model")
    flag("-dc", "--diffusion_config_path", metavar="FILE", default=_DIFFUSION_CONFIG, help="config")
    flag("-ks", "--k_step", metavar="N", type=int, default=_K_STEP, help="diffusion steps")
    flag("-se", "--second_encoding", action="store_true", help="encode again before diffusion")


def _refuse_later(args: argparse.Namespace) -> None:
    """Raise SvcError for the first flag whose feature is not in this version."""
    asked = {
        "-shd/--shallow_diffusion": args.shallow_diffusion,
        "-od/--only_diffusion": args.only_diffusion,
        "-se/--second_encoding": args.second_encoding,
        "-dm/--diffusion_model_path": args.diffusion_model_path != _DIFFUSION_PATH,
        "-dc/--diffusion_config_path": args.diffusion_config_path != _DIFFUSION_CONFIG,
        "-ks/--k_step": args.k_step != _K_STEP,
        "-eh/--enhance": args.enhance,
        "-eak/--enhancer_adaptive_key": args.enhancer_adaptive_key != 0,
        "-usm/--use_spk_mix": args.use_spk_mix,
        "-fr/--feature_retrieval": args.feature_retrieval,
        "-cm/--cluster_model_path": args.cluster_model_path != "",
        "-cr/--cluster_infer_ratio": args.cluster_infer_ratio != 0.0,
    }
    for flag, given in asked.items():
        if given:
            raise SvcError(f"{flag} is not in this version yet; run without {flag.split('/')[0]}")


def _options(args: argparse.Namespace) -> InferOptions:
    from svc.conversion.options import InferOptions, with_transposition

    options = InferOptions(
        auto_f0=args.auto_predict_f0,
        noise_scale=args.noise_scale,
        slice_db=args.slice_db,
        clip_seconds=args.clip,
        crossfade_seconds=args.linear_gradient,
        crossfade_retain=args.linear_gradient_retain,
        pad_seconds=args.pad_seconds,
        loudness_envelope=args.loudness_envelope_adjustment,
        max_chunk_seconds=args.max_chunk,
        seed=args.seed,
    )
    for value in args.trans:
        with_transposition(options, value)  # every value is checked, also those of later songs
    return options


def run(args: argparse.Namespace) -> int:
    """Convert every song for every voice. Returns 0 all done, 1 some failed, 2 none done."""
    _refuse_later(args)
    if args.linear_gradient > 0 and args.clip == 0:
        print("svc: note: -lg has no effect without -cl", file=sys.stderr)
    if args.f0 is not None and args.auto_predict_f0:
        raise ConfigError("--f0 and -a/--auto_predict_f0: sing the curve or let the voice choose")
    if args.f0 is not None and args.f0_predictor != _F0_PREDICTOR:
        print("svc: note: -f0p has no effect with --f0", file=sys.stderr)

    # From the cheap checks to the heavy ones: no wrong flag waits for a model to load.
    from svc.config import load_config
    from svc.conversion.converter import Converter
    from svc.conversion.curves import CURVE_NAME, attach_curves
    from svc.conversion.files import check_writable, convert_files, plan_jobs
    from svc.conversion.key import require_ranges
    from svc.conversion.names import find_model, wav_format
    from svc.conversion.speakers import find_speaker, only_speaker
    from svc.f0.curve import FrameGrid

    options = _options(args)
    suffix = wav_format(args.wav_format)
    model, config_path = find_model(args.model_path, args.config_path)
    config = load_config(config_path)
    speakers_known = config.spk
    wanted = args.spk_list if args.spk_list is not None else [only_speaker(speakers_known)]
    speakers = list(dict.fromkeys(find_speaker(speakers_known, name)[0] for name in wanted))
    jobs, failures = plan_jobs(
        args.clean_names,
        speakers,
        options,
        f0_name=args.f0_predictor if args.f0 is None else CURVE_NAME,
        transposes=args.trans,
        suffix=suffix,
        output_dir=args.output_dir,
        output=_output(args.output, suffix),
    )
    if args.f0 is not None:
        grid = FrameGrid(config.data.sampling_rate, config.data.hop_length)
        jobs, unfit = attach_curves(jobs, args.f0, grid)
        failures += unfit
    if "auto" in args.trans or "auto-octave" in args.trans:
        require_ranges(model, speakers)
    for failure in failures:
        _show(failure)
    if not jobs:
        return _finish(failures)
    for folder in {job.output.parent for job in jobs}:
        check_writable(folder)
    with (
        Converter.from_files(
            model,
            config_path,
            device=args.device,
            f0_predictor=args.f0_predictor if args.f0 is None else None,
            f0_min=args.f0_min,
            f0_max=args.f0_max,
            f0_threshold=args.f0_filter_threshold,
            encoder_path=args.encoder_path,
            encoder_precision=args.encoder_precision,
            compat=args.compat,
        ) as converter,
        progress_bar("infer") as progress,
    ):
        converter.check_options(options)
        outcomes = convert_files(converter, jobs, progress=progress, on_outcome=_show, on_key=_tell)
    return _finish([*failures, *outcomes])


def _output(path: Path | None, suffix: str) -> Path | None:
    """Give `--output` a suffix when it has none, and refuse one that no writer knows."""
    if path is None:
        return None
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder; name a file, or use --output_dir {path}")
    if not path.suffix:
        return path.with_name(f"{path.name}.{suffix}")
    from svc.conversion.names import wav_format

    try:
        wav_format(path.suffix)
    except ConfigError:
        raise ConfigError(
            f'--output {path}: unknown format "{path.suffix}"; '
            "end it with .flac, .wav, .ogg or .mp3"
        ) from None
    return path


def _wipe_bar() -> None:
    """Make room for a line: the progress bar is drawn again below it."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")


def _tell(text: str) -> None:
    """Print a line on stdout."""
    _wipe_bar()
    print(text, flush=True)


def _show(outcome: Outcome) -> None:
    """Print one line: results on stdout, failures on stderr."""
    _wipe_bar()
    if outcome.output is not None:
        print(
            f"{outcome.name} -> {outcome.output}  "
            f"({outcome.audio_seconds:.1f} s of audio in {outcome.wall_seconds:.1f} s)",
            flush=True,
        )
    else:
        who = f" for {outcome.speaker}" if outcome.speaker else ""
        text = " ".join(outcome.error.split()).removeprefix(f"{outcome.name}: ")
        print(f"svc: failed: {outcome.name}{who}: {text}", file=sys.stderr)


def _finish(outcomes: list[Outcome]) -> int:
    """Print the summary of a batch and return the exit code."""
    from svc.conversion.files import exit_code

    failed = [outcome.name for outcome in outcomes if outcome.error]
    if len(outcomes) > 1:
        text = f"{len(outcomes) - len(failed)} of {len(outcomes)} done"
        if failed:
            text += f", {len(failed)} failed: {', '.join(dict.fromkeys(failed))}"
        print(text, file=sys.stderr if failed else sys.stdout)
    return exit_code(outcomes)
