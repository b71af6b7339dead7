"""`svc cover`: the stems of a song in, a finished cover out."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from svc.cli import infer, infer_flags
from svc.cli.infer_report import InferReport
from svc.cli.infer_sharing import ended_by_signal
from svc.cli.options import add_argument
from svc.cli.progress import progress_bar
from svc.cli.report import printable
from svc.errors import ConfigError

if TYPE_CHECKING:
    from svc.conversion.chosen import ChosenVoice
    from svc.conversion.cover import Cover, CoverOptions
    from svc.conversion.cover_plan import Defaults, Entry
    from svc.conversion.separators import CommandSeparator

HELP = "sing the vocals of a song whose stems you have, and mix them with the rest"

_INFER_GROUPS = {"voice", "melody", "timbre", "diffusion", "enhancer", "sound", "cutting"}
_INFER_FLAGS = {
    "--wav_format", "--bit_depth", "--no_tags", "--no_manifest", "--cache_dir", "--cache_gb", "--no_cache",
}  # fmt: skip
"""Those of other groups that a cover has, too."""
_NOT_HERE = {"--f0", "--use_spk_mix", "--spk_mix"}
_OTHER_HELP = {
    "--spk_list": "who sings, by name or number; --plan names others for single stems (default: the "
    "model's only voice)",
    "--trans": "transposition of all vocals; auto or auto-octave: one octave for all of them, that brings "
    "the lead into the voice's range; the instrumental stays in its key (default: 0)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("stems")
    flag = partial(add_argument, group)
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    files: dict[str, Any] = {"metavar": "FILE", "type": Path, **many}
    text = "a song to take apart with --separator, where you have no stems of it"
    parser.add_argument("song", metavar="SONG", type=Path, nargs="?", help=text)
    flag("--lead", **files, help="lead vocals, which the voice sings")
    flag("--backing", **files, help="backing vocals, which the voice sings")
    flag("--instrumental", **files, help="everything else, which stays as it is")
    text = "a JSON file that lists stems and what holds for each of them, see docs/cover.md"
    flag("--plan", metavar="FILE", type=Path, help=text)
    text = "leave backing vocals as they are"
    flag("--keep_backing", action="store_true", help=text)
    text = "transposition of backing vocals (default: as -t)"
    flag("--backing_transpose", metavar="SEMITONES", type=float, help=text)
    text = (
        "command line of a program that takes SONG apart, with {input} for the song and {output} for "
        "the folder of its stems"
    )
    flag("--separator", metavar="COMMAND", help=text)
    text = "names of the files of vocals that it writes, without suffix, such as '*_voice'"
    flag("--separator_vocals", metavar="PATTERN", **many, help=text)
    text = "names of its other files (default for both: the names in use, such as no_vocals)"
    flag("--separator_rest", metavar="PATTERN", **many, help=text)

    flag = partial(add_argument, parser.add_argument_group("mix"))
    text = f"the cover (default: {infer_flags.OUTPUT_DIR}/NAME_cover.FORMAT, after the first stem or SONG)"
    flag("-o", "--output", metavar="FILE", type=Path, help=text)
    text = "folder of the single stems (default: NAME_stems beside the cover)"
    flag("--stems", metavar="FOLDER", type=Path, help=text)
    flag("--no_stems", action="store_true", help="do not write the single stems")
    gain = {"metavar": "DB", "type": float, "default": 0.0}
    text = "turn lead vocals up or down; 0 = as loud as those they replace (default: 0)"
    flag("--lead_gain", **gain, help=text)
    flag("--backing_gain", **gain, help="the same for backing vocals (default: 0)")
    flag("--instrumental_gain", **gain, help="the same for everything else (default: 0)")
    text = "loudness of the mix, LUFS (default: as the stems add up)"
    flag("--lufs", metavar="LUFS", type=float, help=text)
    text = "sampling rate (default: the instrumental's, without one the highest of the stems)"
    flag("--rate", metavar="HZ", type=int, help=text)
    text = (
        "of stereo vocals: keep, as loud in each channel as the singer was; mid-side, the voice in the "
        "middle and the sides as they were; mono (default: keep)"
    )
    flag("--channels", metavar="NAME", default="keep", help=text)
    infer_flags.add_arguments(cast("argparse.ArgumentParser", _Chosen(parser)))


def run(args: argparse.Namespace) -> int:
    """Make a cover. Returns 0; what is wrong with the input is raised before the long work."""
    # From the cheap checks to the heavy ones: no wrong flag waits for a separator or a model.
    from svc.conversion.cached_hearing import HearingCache
    from svc.conversion.chosen import choose_voice
    from svc.conversion.converter import Converter
    from svc.conversion.cover import make_cover, plan_layout
    from svc.conversion.cover_key import deciding_stem, key_note
    from svc.conversion.cover_plan import make_stems, with_speakers
    from svc.conversion.file_hashes import FileHashes
    from svc.conversion.files import check_writable
    from svc.conversion.manifest import Inputs, RunFacts

    _check_flags(args)
    separator, entries = _separator(args), _entries(args)
    options, cache = _cover_options(args, entries), infer._cache(args)
    diffusion, compute = infer._diffusion(args), infer._compute(args)
    voice = choose_voice(
        args.model_path,
        args.config_path,
        compute=compute,
        only_diffusion=diffusion if args.only_diffusion else None,
    )
    defaults = _defaults(args, _speaker(args, entries, voice))
    choice = infer._hearing(args, voice)
    report = InferReport()
    with contextlib.ExitStack() as stack:
        stack.enter_context(ended_by_signal())
        if separator is not None:
            check_writable(options.output.parent)
            entries = _separated(separator, args.song, stack)
        stems = with_speakers(make_stems(entries, defaults), voice.speakers)
        plan_layout(stems, options)
        first = deciding_stem(stems)
        if first is not None:
            voice.require_ranges([first.speaker])
        if note := key_note(stems):
            print(f"svc: note: {note}", file=sys.stderr)
        enhancer = (args.vocoder or infer_flags.ENHANCER) if args.enhance else None
        hashes = stack.enter_context(FileHashes())
        if cache is not None:
            choice = replace(choice, cache=HearingCache(cache, hashes))
        converter = stack.enter_context(
            Converter.from_files(
                voice.model,
                voice.config,
                choice,
                diffusion=diffusion,
                enhancer=enhancer,
                compute=compute,
            )
        )
        infer._tell_computing(args, converter.voice)
        facts = None
        if not args.no_manifest:
            inputs = Inputs(voice, choice, diffusion, enhancer)
            facts = RunFacts.of(args.words, inputs, converter.voice, hashes)
        progress = stack.enter_context(progress_bar("cover"))
        cover = make_cover(
            converter, stems, options, run=facts, progress=progress, on_key=report.tell
        )
    for line in _lines(cover):
        report.tell(line)
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other."""
    if args.spk_list is not None and len(args.spk_list) > 1:
        raise ConfigError(
            "-s/--spk_list names several voices: a cover has one, and --plan others for single stems"
        )
    if len(args.trans) > 1:
        raise ConfigError(
            "-t/--trans has several values: give one; --backing_transpose and --plan tell stems apart"
        )
    if args.stems is not None and args.no_stems:
        raise ConfigError("--stems and --no_stems: leave one of them out")
    infer._check_flags(args)
    if args.backing_transpose is not None and args.keep_backing:
        print("svc: note: --backing_transpose has no effect with --keep_backing", file=sys.stderr)


def _separator(args: argparse.Namespace) -> CommandSeparator | None:
    """Return what takes the song apart, where there is one."""
    from svc.conversion.separators import CommandSeparator

    stems = bool(args.lead or args.backing or args.instrumental or args.plan)
    if args.song is None:
        if args.separator is not None:
            raise ConfigError(
                "--separator needs a song to take apart: svc cover SONG --separator ..."
            )
        return None
    if stems:
        raise ConfigError(
            f"{args.song} and stems: give a song with a --separator, or the stems you have"
        )
    if args.separator is None:
        raise ConfigError(
            f"{args.song} is a whole song: say with --separator what takes it apart, or give its "
            "stems with --lead, --backing and --instrumental"
        )
    separator = CommandSeparator(args.separator, args.separator_vocals, args.separator_rest)
    separator.check(args.song)
    return separator


def _entries(args: argparse.Namespace) -> list[Entry]:
    """List the stems of the flags and of the plan."""
    from svc.conversion.cover_plan import listed, make_stems, read_plan

    entries = [] if args.plan is None else read_plan(args.plan)
    entries += listed(args.lead, args.backing, args.instrumental)
    if args.song is None:
        make_stems(
            entries, _defaults(args, "voice")
        )  # what is wrong is said before a model is looked for
    return entries


def _separated(separator: CommandSeparator, song: Path, stack: contextlib.ExitStack) -> list[Entry]:
    """Take a song apart; the files go with the stack."""
    from svc.conversion.cover_plan import listed

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="svc-stems-"))
    print(printable(f"taking {song} apart ..."), file=sys.stderr, flush=True)
    found = separator.separate(song, Path(folder))
    return listed(found.lead, found.backing, found.rest)


def _defaults(args: argparse.Namespace, speaker: str) -> Defaults:
    from svc.conversion.cover_plan import Defaults, in_octaves
    from svc.conversion.options import with_transposition

    return Defaults(
        speaker,
        with_transposition(infer._options(args), in_octaves(args.trans[0])),
        backing_transpose=args.backing_transpose,
        keep_backing=args.keep_backing,
        lead_gain=args.lead_gain,
        backing_gain=args.backing_gain,
        keep_gain=args.instrumental_gain,
    )


def _speaker(args: argparse.Namespace, entries: Sequence[Entry], voice: ChosenVoice) -> str:
    """Return who sings the stems that name nobody."""
    from svc.conversion.speakers import find_speaker, only_speaker

    if args.spk_list is not None:
        return find_speaker(voice.speakers, args.spk_list[0])[0]
    sung = [entry for entry in entries if entry.role != "keep"]
    if sung and all("speaker" in entry.settings for entry in sung) and voice.speakers:
        return next(iter(voice.speakers))  # nobody asks
    return only_speaker(voice.speakers)


def _cover_options(args: argparse.Namespace, entries: Sequence[Entry]) -> CoverOptions:
    from svc.conversion.cover import CoverOptions
    from svc.conversion.names import wav_format

    suffix = wav_format(args.wav_format)
    output = infer._output(args.output, suffix)
    if output is None:
        name = (args.song or entries[0].path).stem
        output = infer_flags.OUTPUT_DIR / f"{name}_cover.{suffix}"
    folder = output.with_name(f"{output.stem}_stems") if args.stems is None else args.stems
    return CoverOptions(
        output,
        None if args.no_stems else folder,
        infer._results(args),
        args.lufs,
        args.song,
    )


def _lines(cover: Cover) -> Iterator[str]:
    """Say what became of the stems and of the mix."""
    for part in cover.parts:
        stem = part.stem
        text = f"{stem.path.name} -> {part.output or stem.name}  ("
        if stem.sung:
            melody = "" if stem.options.auto_f0 else f", -t {stem.options.transpose:g}"
            text += f"{stem.speaker}{melody}, matched by {part.matched_db:+.1f} dB"
        else:
            text += "as it is"
        yield text + (f", {stem.gain_db:+.1f} dB)" if stem.gain_db else ")")
    kind = "stereo" if cover.layout.n_channels == 2 else "mono"
    text = f"{cover.output}  ({cover.seconds:.1f} s, {cover.layout.rate} Hz, {kind}"
    if math.isfinite(cover.loudness):
        text += f", {cover.loudness:.1f} LUFS"
    if cover.gain_db:
        text += f", {cover.gain_db:+.1f} dB for --lufs"
    if cover.limited_db > 0:
        text += f", limited by up to {cover.limited_db:.1f} dB for {cover.limited_seconds:.1f} s"
    yield f"{text}; made in {cover.wall_seconds:.1f} s)"


class _Chosen:
    """Takes the flags of `svc infer`, and hands on those that a cover has, too.

    The others get their default values, so that what reads them finds them.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser

    def add_argument_group(self, title: str) -> _ChosenGroup:
        return _ChosenGroup(self._parser, title)


class _ChosenGroup:
    """A group of `_Chosen`."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self._parser = parser
        self._title = title
        self._group: argparse._ArgumentGroup | None = None

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        wanted = self._title in _INFER_GROUPS and not _NOT_HERE.intersection(names)
        if wanted or _INFER_FLAGS.intersection(names):
            if self._group is None:
                self._group = self._parser.add_argument_group(self._title)
            for name in names:
                options["help"] = _OTHER_HELP.get(name, options.get("help"))
            return self._group.add_argument(*names, **options)
        action = argparse.ArgumentParser(add_help=False).add_argument(*names, **options)
        if self._parser.get_default(action.dest) is None:
            self._parser.set_defaults(**{action.dest: action.default})
        return action
