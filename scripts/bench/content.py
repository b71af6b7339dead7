"""How much content the units of encoders carry, on parallel recordings: a Markdown table.

    python scripts/bench/content.py --shared ../shared [--out docs/encoders.md]
    python scripts/bench/content.py --voices recordings/anna recordings/ben --encoders vec768l12 wavlmbase+

With recordings of your own: one folder per speaker, the same file name for the same sentence. What
is measured: svc/evaluation/content.py. The same input gives the same table.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from doc_section import write_section

from svc.config import split_encoders
from svc.devices import PRECISIONS, resolve_device
from svc.errors import MissingFileError, SvcError
from svc.evaluation.content import CHANCE, PairScore, Voice, measure_content, voice_from_folder
from svc.evaluation.frame_features import BASELINES, Features, encoder_features, moved
from svc.pretrained import PRETRAIN_DIR
from svc.speech import build_speech_encoder

SECTION = "content"
SHARED = Path(__file__).resolve().parents[3] / "shared"
VCC = ("vcc16_sf1", "vcc16_sm1", "vcc16_tf2")
QUICK = tuple(f"2000{number:02d}" for number in (3, 4, 6, 8, 10, 16))


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(results: Sequence[PairScore]) -> list[str]:
    lines = [
        row(["speakers", "what", "top 1", "top 5", "mean 1/rank", "frames"]),
        row(["---", "---", *["---:"] * 4]),
    ]
    for pair in results:
        names = " and ".join(name.removeprefix("vcc16_") for name in pair.voices)
        for name, score in pair.scores.items():
            shares = [f"{100 * share:.1f} %" for share in (score.top1, score.top5)]
            # The chance of a frame is far below the others.
            frames = f"{100 * score.frames:.{2 if score.frames < 0.01 else 1}f} %"
            lines.append(row([names, name, *shares, f"{score.reciprocal_rank:.3f}", frames]))
    return lines


def explain(results: Sequence[PairScore], voices: Sequence[Voice], vcc: bool) -> list[str]:
    seconds = sum(len(wav) for voice in voices for wav in voice.clips.values()) / 16000
    pairs = "; ".join(
        f"{' and '.join(name.removeprefix('vcc16_') for name in pair.voices)}: {pair.n_sentences}"
        f" sentences among {pair.n_candidates:g} clips, {pair.n_frames} frames"
        for pair in results
    )
    who = (
        " The recordings are those of the Voice Conversion Challenge 2016 (CC BY 4.0): sf1 and tf2"
        " are women, sm1 is a man."
        if vcc
        else ""
    )
    return [
        f"{seconds / 60:.1f} minutes of speech, both directions of each pair ({pairs}).{who}"
        " *top 1*, *top 5*, *mean 1/rank*: the same sentence found among all clips of the other"
        " speaker after time warping. *frames*: the nearest of all frames of the other speaker is"
        " within 60 ms of the same place of the same sentence. *moved*: each clip begins after 0 to"
        " 2 s of silence, so that its place in the encoder's input says nothing. *0.8 s*: each mel"
        " frame together with the 0.4 s before and after it. *time alone* hears nothing but the"
        f" time since the clip began; *{CHANCE}* is a blind guess."
    ]


def paths_of(items: Sequence[str]) -> dict[str, Path]:
    """Read ``ID=PATH`` items."""
    found = {}
    for item in items:
        name, sign, path = item.partition("=")
        if not (sign and path):
            raise SvcError(f"--encoder_path {item}: expected ID=PATH")
        found[split_encoders(name)[0]] = Path(path)
    return found


def features_of(args: argparse.Namespace) -> dict[str, Features]:
    paths = paths_of(args.encoder_path)
    features: dict[str, Features] = {}
    for name in args.encoders:
        own: Mapping[str, Path] = {
            part: paths[part] for part in split_encoders(name) if part in paths
        }
        encoder = build_speech_encoder(
            name,
            device=resolve_device(args.device),
            path=own,
            pretrain_dir=args.pretrain_dir,
            precision=args.precision,
        )
        features[name] = encoder_features(encoder)
        features[f"{name}, moved"] = moved(features[name])
    return {**features, **BASELINES}


def voices_of(args: argparse.Namespace) -> list[Voice]:
    if args.voices:
        return [voice_from_folder(folder) for folder in args.voices]
    if not args.shared.is_dir():
        raise MissingFileError(
            f"{args.shared} is not there; give --shared, or recordings of your own with --voices"
        )
    folder = args.shared / "audio" / "speech"
    return [voice_from_folder(folder / name, QUICK if args.quick else None) for name in VCC]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(os.environ.get("SVC_SHARED", SHARED)),
        help="folder with audio/speech/vcc16_*",
    )
    parser.add_argument(
        "--voices", type=Path, nargs="+", metavar="FOLDER", help="own recordings, one per speaker"
    )
    parser.add_argument("--encoders", nargs="+", default=["whisper-ppg-tiny"], metavar="ID")
    parser.add_argument("--encoder_path", nargs="+", default=[], metavar="ID=PATH")
    parser.add_argument("--pretrain_dir", type=Path, default=PRETRAIN_DIR, metavar="DIR")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--quick", action="store_true", help="six sentences of --shared")
    parser.add_argument("--out", type=Path, help=f'write the section "{SECTION}" of this document')
    return parser


def main(arguments: list[str] | None = None) -> int:
    args = build_parser().parse_args(arguments)

    def tell(done: int, total: int, what: str) -> None:
        print(f"\r{done}/{total} {what}".ljust(60), end="", file=sys.stderr, flush=True)

    try:
        voices = voices_of(args)
        results = measure_content(voices, features_of(args), progress=tell)
        print(file=sys.stderr)
        text = "\n".join([*explain(results, voices, not args.voices), "", *table(results)])
        if args.out:
            write_section(args.out, SECTION, text)
    except (SvcError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
