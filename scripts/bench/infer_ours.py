"""`svc infer` under a stopwatch: its own engine, wrapped from outside."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infer_nets import RETRIEVED
from infer_rows import Row
from infer_song import SPEAKER, build_encoder
from infer_stages import Stages

from svc.audio.resample_stream import ResampleStream
from svc.audio.writer import AudioWriter
from svc.conversion import listening, stretches
from svc.conversion.assembly import Assembler
from svc.conversion.batches import BatchSize
from svc.conversion.chunks import FloatArray
from svc.conversion.compute import ComputeChoice
from svc.conversion.converter import KEPT_KERNELS, Converter
from svc.conversion.file_source import FileSource, SongFacts
from svc.conversion.options import HearingChoice, InferOptions
from svc.conversion.result_stream import write_result
from svc.conversion.results import ResultOptions
from svc.conversion.survey import Surveyor
from svc.conversion.voice import Voice, load_voice
from svc.f0.remember import RememberingPredictor


class OurSinger:
    """Converts a file as `svc infer` does.

    Args:
        converter: the voice.
        options: of the conversion.
        stages: what its parts have been wrapped with.
    """

    def __init__(self, converter: Converter, options: InferOptions, stages: Stages) -> None:
        self.converter, self.options, self.stages = converter, options, stages
        self.sr = converter.sampling_rate

    def sing(self, source: Path, target: Path) -> tuple[int, float]:
        """See `infer_nets.Singer`."""
        begun = self.stages.clock()
        first = 0.0
        facts = SongFacts.of(FileSource.of(source), self.options.slice_db, "mono")
        n_samples = self.converter.output_length(facts.survey.n_samples, facts.source.sr)

        def sung() -> Iterator[FloatArray]:
            nonlocal first
            for part in parts:
                first = first or self.stages.clock() - begun
                yield part

        with contextlib.closing(
            self.converter.stream(facts.source, SPEAKER, self.options, survey=facts.survey)
        ) as parts:
            written = write_result(
                target, sung(), self.sr, self.sr, facts, ResultOptions(), n_converted=n_samples
            )
        return written.n_samples, first


def our_singer(folder: Path, row: Row, order: dict[str, Any]) -> OurSinger:
    """Load the voice of `write_voice` as `svc infer` does; arguments as of `infer_nets.plain_singer`."""
    # What `Converter.from_files` does: else kernels of every length pile up over an hour of song.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_KERNELS))
    stages = Stages(order["clock"])

    def encoder(name: str, *, precision: str, **_: object) -> object:
        del name
        return build_encoder(quick=order["quick"], device=order["device"], precision=precision)

    listening.build_speech_encoder = encoder  # type: ignore[assignment]
    choice = HearingChoice(
        device=order["device"],
        f0_predictor=order["f0"],
        encoder_precision=row.encoder,
        cluster_path=order["index"],
    )
    compute = ComputeChoice(row.backend, row.precision, row.compiled)
    voice = load_voice(folder / "G_0.pth", None, choice, compute=compute)
    if not row.batched:
        voice = dataclasses.replace(voice, batch=BatchSize(0))
    watch(voice, stages)
    ratio = 0.0 if order["index"] is None else RETRIEVED
    return OurSinger(Converter(voice), InferOptions(cluster_ratio=ratio), stages)


def watch(voice: Voice, stages: Stages) -> None:
    """Wrap what a song goes through, for the rest of this process."""
    stages.method("read", FileSource, "_blocks")
    for name in ("feed", "finish"):
        stages.method("slice", Surveyor, name)
        stages.method("resample", ResampleStream, name)
    stretches.plan_pieces = stages.wrapped("slice", stretches.plan_pieces)
    listening.sinc_resample = stages.wrapped("resample", listening.sinc_resample)
    for name in ("__call__", "track_batch"):
        stages.method("F0", RememberingPredictor, name)
    for name in ("encode", "encode_batch"):
        stages.method("encoder", type(voice.encoder), name)
    if voice.retriever is not None:
        stages.method("retrieval", type(voice.retriever), "match")
    stages.method("prior and flow", type(voice.synthesizer), "synthesize")
    stages.method("generator", type(voice.synthesizer.dec), "forward")
    for name in ("add", "finish"):
        stages.method("join", Assembler, name)
    for name in ("write", "__exit__"):
        stages.method("write", AudioWriter, name)
