"""Training with compiled nets: what ``svc train --compile`` does.

torch.compile joins the small operations between convolutions into few kernels. Only what always sees
one shape is compiled, the decoder and the discriminator, which are given windows: the encoders and
the flow are given clips of every length. State dicts, random draws and what a step computes (but for
rounding) stay as they are.

The compiler keeps what it has made in a folder of its own (TORCHINDUCTOR_CACHE_DIR), so a run that
goes on starts faster.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from svc.synthesizer.model import Synthesizer
from svc.vocoder.discriminator import Discriminator


def compile_nets(generator: Synthesizer, discriminator: Discriminator) -> str:
    """Have decoder and discriminator compiled when they are first called, in place.

    Args:
        generator: of a voice; every size of batch is compiled for itself.
        discriminator: its own step and the generator's are compiled each for itself. Real and fake
            are joined and parted outside: inside, torch 2.13 makes NaN of their gradients on a CPU
            in bfloat16.

    Returns:
        A line for the log.
    """
    generator.dec.compile(dynamic=False)
    discriminator.discriminators.compile(dynamic=False)
    return "decoder and discriminator are compiled in the first steps, which takes minutes"


def uncompiled(generator: Synthesizer) -> AbstractContextManager[object]:
    """Return the context in which a net runs as it is written: for songs, which have any length."""
    if generator.dec._compiled_call_impl is None:
        return nullcontext()
    context: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return context
