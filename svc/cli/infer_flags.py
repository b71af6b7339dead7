"""The flags of `svc infer`: those of so-vits-svc 4.1 under their names (spec_core 8.7), and ours."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from svc.cli.infer_sharing import add_sharing
from svc.cli.options import (
    F0_THRESHOLD_HELP,
    add_argument,
    add_device,
    add_encoder_precision,
    add_seed,
    f0_predictor_help,
)

OUTPUT_DIR = Path("results")
F0_PREDICTOR = "pm"
K_STEP = 100
INDEX_K = 8
NOISE_SCALE = 0.4
ENHANCER = Path("pretrain/nsf_hifigan/model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags."""
    group = parser.add_argument_group("voice")
    flag = partial(add_argument, group)
    text = "checkpoint, or the folder of an exported voice (default: newest logs/44k/G_*.pth)"
    flag("-m", "--model_path", metavar="FILE", help=text)
    flag("-c", "--config_path", metavar="FILE", help="its config (default: config.json beside it)")
    text = "voices, by name or number; each sings every song (default: the model's only voice)"
    flag("-s", "--spk_list", metavar="NAME", nargs="+", action="extend", help=text)
    text = (
        "weights of the speech encoder, a file or a Hugging Face folder; for two fused encoders "
        "ID=PATH[,ID=PATH] (default: as the config says, else their place under pretrain/)"
    )
    flag("--encoder_path", metavar="PATH", help=text)
    add_encoder_precision(group)
    text = (
        "of a checkpoint: what computes its generator, torch, onnx or openvino; of -m FOLDER, a voice of "
        " svc onnx-export --profile full , onnx computes all of it without torch (default: auto, torch for "
        "a checkpoint)"
    )
    flag("--backend", metavar="NAME", default="auto", help=text)
    text = (
        "of a checkpoint's generator, fp32, bf16 or fp16; diffusion follows; auto: bf16 where the processor "
        "is made for it, three times as fast and an error 35 dB or more below the voice, fp16 on older "
        "GPUs, else fp32 (default: auto)"
    )
    flag("--precision", metavar="NAME", default="auto", help=text)
    text = "let torch.compile make kernels for the generator; takes minutes, for long runs on a GPU"
    flag("--compile", action="store_true", help=text)
    add_device(group)

    flag = partial(add_argument, parser.add_argument_group("songs"))
    text = "names under raw/ (.wav may be left out), paths of audio files, or folders"
    many = partial(flag, nargs="+", action="extend")
    many("-n", "--clean_names", metavar="NAME", required=True, help=text)
    text = f"folder of the results (default: {OUTPUT_DIR})"
    flag("--output_dir", metavar="FOLDER", type=Path, default=OUTPUT_DIR, help=text)
    text = "name the result yourself; only for one song and one voice"
    flag("--output", metavar="FILE", type=Path, help=text)
    text = (
        "flac, wav, ogg, mp3, opus, aiff, caf or w64, with ffmpeg m4a, mp4 or webm (default: flac)"
    )
    flag("-wf", "--wav_format", metavar="FORMAT", default="flac", help=text)
    text = "a folder stands for the files in its sub-folders, too, and results keep the sub-folders"
    flag("--recursive", action="store_true", help=text)
    text = "leave songs out whose result is there"
    flag("--skip_existing", action="store_true", help=text)
    _add_results(parser)

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
    text = f0_predictor_help(F0_PREDICTOR)
    flag("-f0p", "--f0_predictor", metavar="NAME", default=F0_PREDICTOR, help=text)
    text = "lowest pitch looked for (default: 50)"
    flag("--f0_min", metavar="HZ", type=float, default=50.0, help=text)
    text = "highest pitch looked for (default: 1100)"
    flag("--f0_max", metavar="HZ", type=float, default=1100.0, help=text)
    flag("-ft", "--f0_filter_threshold", metavar="X", type=float, help=F0_THRESHOLD_HELP)

    add_sharing(parser)
    _add_timbre(parser)
    _add_diffusion(parser)
    _add_enhancer(parser)
    group = parser.add_argument_group("sound")
    flag = partial(add_argument, group, metavar="X", type=float)
    text = "amount of chance in the voice's detail (default: 0.4)"
    names = ("-ns", "--noice_scale", "--noise_scale")
    flag(*names, dest="noise_scale", default=NOISE_SCALE, help=text)
    text = "1 = the voice's own loudness, 0 = the source's, moment by moment (default: 1)"
    flag("-lea", "--loudness_envelope_adjustment", default=1.0, help=text)
    text = (
        "share of the source's own breaths in place of what the voice makes of them, 0 to 1; -sd -50 along "
        "with it keeps the soft ones (default: 0)"
    )
    flag("--keep_breath", default=0.0, help=text)
    text = "the same for consonants without voice: s, f, t and so on (default: 0)"
    flag("--keep_unvoiced", default=0.0, help=text)
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


def _transposition(text: str) -> float | str:
    """Read one value of -t."""
    word = text.strip().lower()
    try:
        return word if word in ("auto", "auto-octave") else float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'"{text}" is neither a number of semitones nor auto nor auto-octave'
        ) from None


def _rate(text: str) -> int | str:
    """Read the value of --rate."""
    word = text.strip().lower()
    try:
        return word if word == "source" else int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is neither a rate in Hz nor source') from None


def _add_results(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser.add_argument_group("results"))
    text = (
        "mono; keep: the voice in every channel, as loud there as the singer was; mid-side: the voice "
        "in the middle, the sides as they were (default: mono)"
    )
    flag("--channels", metavar="NAME", default="mono", help=text)
    text = "16, 24 or 32f for floats, where the format has a choice (default: 16)"
    flag("--bit_depth", metavar="BITS", help=text)
    text = "sampling rate, or source for that of each song (default: the voice's)"
    flag("--rate", metavar="HZ", type=_rate, help=text)
    text = "do not copy title, artist and so on, and do not write what made the file"
    flag("--no_tags", action="store_true", help=text)
    text = "write no manifest, the .json beside each result that says how it was made"
    flag("--no_manifest", action="store_true", help=text)
    text = "print one line of JSON per result on stdout, and nothing else there"
    flag("--json", action="store_true", help=text)
    text = (
        "folder in which units and pitch of songs are kept for the next run (default: $SVC_CACHE_DIR, "
        "else svc/ in the system's folder of caches)"
    )
    flag("--cache_dir", metavar="FOLDER", type=Path, help=text)
    text = "size of that folder; what was not used for the longest time goes (default: 2)"
    flag("--cache_gb", metavar="GB", type=float, help=text)
    flag("--no_cache", action="store_true", help="keep nothing, and look for nothing kept")


def _add_timbre(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser.add_argument_group("timbre"))
    text = (
        "how much of each sound is replaced by the most similar ones of the voice itself, 0 to 1; more is "
        "nearer to the voice and less clear (default: 0)"
    )
    flag("-cr", "--cluster_infer_ratio", metavar="X", type=float, default=0.0, help=text)
    text = "take them from the retrieval index of  svc train-index , not the clusters"
    flag("-fr", "--feature_retrieval", action="store_true", help=text)
    text = (
        "clusters of  svc train-cluster , or an index (default: kmeans_*.pt or the index beside the "
        "model)"
    )
    flag("-cm", "--cluster_model_path", metavar="FILE", default="", help=text)
    text = "spare unvoiced sounds, breaths and consonants: 0 not at all, 1 wholly (default: 0)"
    flag("--protect", metavar="X", type=float, default=0.0, help=text)
    text = f"similar sounds of an index that are averaged (default: {INDEX_K})"
    flag("--index_k", metavar="N", type=int, default=INDEX_K, help=text)
    text = (
        "lists of an index that are searched; more is slower and steadier (default: as the index "
        "says, usually 1)"
    )
    flag("--index_nprobe", metavar="N", type=int, help=text)
    text = "let several voices sing, each as --spk_mix says, instead of -s"
    flag("-usm", "--use_spk_mix", action="store_true", help=text)
    text = (
        "who sings when: NAME=SHARE,NAME=SHARE for the whole song, or a .json or .csv file (see  svc "
        "mix-track ; default: spkmix.json, spkmix.csv or spkmix.py in the working folder)"
    )
    flag("--spk_mix", metavar="MIX", help=text)


def _add_diffusion(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser.add_argument_group("diffusion"))
    text = "let a diffusion model go over the result"
    flag("-shd", "--shallow_diffusion", action="store_true", help=text)
    text = "let the diffusion model sing alone"
    flag("-od", "--only_diffusion", action="store_true", help=text)
    text = "its checkpoint (default: newest diffusion/model_*.pt beside the voice)"
    flag("-dm", "--diffusion_model_path", metavar="FILE", type=Path, help=text)
    text = "its config (default: config.yaml beside it)"
    flag("-dc", "--diffusion_config_path", metavar="FILE", type=Path, help=text)
    text = f"steps of noise put in and taken out again by -shd (default: {K_STEP})"
    flag("-ks", "--k_step", metavar="N", type=int, default=K_STEP, help=text)
    text = "let -shd hear the voice's own result instead of the song"
    flag("-se", "--second_encoding", action="store_true", help=text)
    text = "ddpm, ddim, pndm, dpm-solver, dpm-solver++ or unipc (default: as its config says)"
    flag("--diffusion_method", metavar="NAME", help=text)
    text = "evaluations are fewer by this factor (default: as its config says)"
    flag("--diffusion_speedup", metavar="N", type=int, help=text)
    text = (
        "of the diffusion model and its vocoder, fp32, bf16 or fp16 (GPU): bf16 is about three times as "
        "fast where the processor has it, and adds noise 47 dB below the voice (default: as --precision)"
    )
    flag("--diffusion_precision", metavar="NAME", help=text)
    text = (
        "NSF-HiFiGAN vocoder, also of -eh: its weights, their folder, or the name of a folder under "
        "pretrain/ (default: as the diffusion config says)"
    )
    flag("--vocoder", metavar="FILE|NAME", type=Path, help=text)


def _add_enhancer(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser.add_argument_group("enhancer"))
    text = (
        f"let an NSF-HiFiGAN vocoder sing the result again: that of --vocoder, else {ENHANCER}; not with "
        "-shd and -od, which end in a vocoder anyway"
    )
    flag("-eh", "--enhance", action="store_true", help=text)
    text = (
        "semitones by which it hears the result lower: above 0 where high notes break, below 0 for low "
        "ones (default: 0)"
    )
    names = ("-eak", "--enhancer_adaptive_key")
    flag(*names, metavar="SEMITONES", type=int, default=0, help=text)
