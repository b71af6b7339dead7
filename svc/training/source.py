"""The harmonic source in training: how it begins, and the warning when a net has stopped listening to it.

In a net that starts from random values the sines are faint, and small nets have been seen to lower their weights
step by step to nothing, in some hundreds of steps. It is probably that loud frames are soon made without them, as a
hum at the frame rate with the right spectrum, and that they disturb in quiet frames. Nothing brings them back: what
would has next to no gradient without them. Such a voice never learns to follow a melody. A source that begins loud is
used before that happens.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from svc.training.journal import Journal
from svc.training.scores import Score
from svc.vocoder.source import HarmonicSource

_SILENT = 0.02  # the loudest harmonic's weight; random ones begin at up to 1/3
_DEAF = 0.3  # correlation of the sung pitch with the wanted one


def begin_source(net: nn.Module, weight: float) -> None:
    """Give every harmonic of a new net's source the same weight.

    Args:
        net: holds the source, or sources.
        weight: of each; 0 leaves the random ones.
    """
    if not weight:
        return
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, HarmonicSource):
                module.l_linear.weight.fill_(weight)
                module.l_linear.bias.zero_()


def watch_source(journal: Journal, net: nn.Module, score: Score) -> None:
    """Warn where a net has silenced its source and does not follow the melody.

    Args:
        journal: where to.
        net: what was evaluated.
        score: of the evaluation.
    """
    sources = [module for module in net.modules() if isinstance(module, HarmonicSource)]
    loudest = max(
        (float(source.l_linear.weight.detach().abs().max()) for source in sources), default=1.0
    )
    followed = score.f0_correlation
    if loudest < _SILENT and (followed is None or followed < _DEAF):
        journal.note(
            f"the melody is not followed and the harmonic source is silent (weights below {loudest:.1g}): more "
            'steps will not mend it; begin anew (--resume never) with "train.source_weight": 3 in the config, or '
            "from a base model",
            level=logging.WARNING,
        )
