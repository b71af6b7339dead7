"""What an evaluation on held-out clips writes down, of a voice or of a vocoder: sound, pictures, figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from svc.training import figures
from svc.training.journal import Journal
from svc.training.scores import Score, Sung
from svc.training.source import watch_source

_DRAWN = 4  # clips with pictures of their own; a picture takes as long as singing a second


def show(journal: Journal, sung: Sung, step: int, sampling_rate: int, *, last: bool) -> None:
    """Write down what is heard and seen of a clip, the original's tags first (spec_core 7.4).

    Args:
        journal: where to.
        sung: the clip.
        step: steps that are done.
        sampling_rate: Hz.
        last: whether it is the last of them, whose mels the original shows.
    """
    recorded, made = sung.recorded, sung.made
    audio = {f"gen/audio_{sung.index}": made.wav, f"gt/audio_{sung.index}": recorded.wav}
    journal.eval_audio(audio, step, sampling_rate)
    images = {}
    if last:
        images["gen/mel"] = figures.spectrogram_image(made.mel)
        images["gt/mel"] = figures.spectrogram_image(recorded.mel)
    if sung.index < _DRAWN:
        images[f"validation/mel_{sung.index}"] = figures.comparison_image(recorded.mel, made.mel)
        tracks = {"recorded": recorded.f0, "sung": made.f0}
        images[f"validation/f0_{sung.index}"] = figures.pitch_image(tracks)
    journal.eval_images(images, step)


def report(
    journal: Journal,
    step: int,
    score: Score,
    seconds: float,
    net: nn.Module,
    *,
    losses: Mapping[str, Mapping[str, float]] | None = None,
    **facts: Any,
) -> None:
    """Write down the figures of an evaluation: scalars, a line of the metrics and one of the log.

    Args:
        journal: where to.
        step: steps that are done.
        score: of all clips.
        seconds: that it took.
        net: what was evaluated: one that has silenced its source is warned of.
        losses: losses on the clips by the name of their group, such as "loss".
        facts: for the metrics: of how many clips it is, and by what measure.
    """
    groups = {group: dict(values) for group, values in (losses or {}).items() if values}
    scalars = {f"validation/{name}": value for name, value in score.scalars().items()}
    for group, values in groups.items():
        scalars |= {f"validation/{group}/{name}": value for name, value in values.items()}
    journal.eval_scalars(scalars, step)
    journal.record(
        "validation", step, seconds=round(seconds, 3), scores=score.scalars(), **groups, **facts
    )
    told = "".join(
        f"; {group.replace('_', ' ')} "
        + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        for group, values in groups.items()
    )
    journal.note(f"evaluation at step {step}: {score}{told}; {seconds:.1f} s")
    watch_source(journal, net, score)
