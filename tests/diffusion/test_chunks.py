"""Several chunks in one pass: joining them, and that none of them hears another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.diffusion import METHODS, Unit2Mel
from svc.diffusion.chunks import Chunk, batches, join, split, walls
from svc.errors import ConfigError

Small = Callable[..., Unit2Mel]
LENGTHS = (9, 1, 14, 4)


def make_chunks(
    *, refine: bool = True, dtype: torch.dtype = torch.float64, lengths: tuple[int, ...] = LENGTHS
) -> list[Chunk]:
    made = torch.Generator().manual_seed(3)
    found = []
    for index, n_frames in enumerate(lengths):
        mix = torch.rand(n_frames, 3, generator=made).to(dtype)
        found.append(
            Chunk(
                torch.randn(n_frames, 5, generator=made).to(dtype),
                200 + 100 * torch.rand(n_frames, generator=made).to(dtype),
                torch.rand(n_frames, generator=made).to(dtype),
                index % 3 if index != 2 else None,
                mix if index == 2 else None,
                torch.randn(6, n_frames, generator=made).to(dtype) - 5 if refine else None,
                torch.Generator().manual_seed(20 + index),
            )
        )
    return found


def alone(net: Unit2Mel, chunk: Chunk, **options: Any) -> Tensor:
    """What `infer` makes of one chunk."""
    return net.infer(
        chunk.units[None],
        chunk.f0[None],
        chunk.volume[None],
        None if chunk.speaker is None else torch.tensor([chunk.speaker]),
        speaker_mix=chunk.speaker_mix,
        mel=None if chunk.mel is None else chunk.mel[None],
        generator=chunk.generator,
        **options,
    )[0]


def test_joined_and_split() -> None:
    parts = [torch.randn(1, 2, length) for length in (3, 1, 2)]
    joined = join(parts)
    assert joined.shape == (1, 2, 3 + 1 + 2 + 2)
    found = walls([3, 1, 2], torch.device("cpu"))
    assert found is not None
    assert found.tolist() == [3, 5]
    assert (joined[..., found] == 0).all()
    for part, back in zip(parts, split(joined, [3, 1, 2]), strict=True):
        assert torch.equal(part, back)
    assert walls([3], torch.device("cpu")) is None
    assert torch.equal(join(parts[:1]), parts[0])


@pytest.mark.parametrize(
    ("lengths", "limit", "expected"),
    [
        ([], 10, []),
        ([4], 2, [[0]]),
        ([4, 5], 10, [[0, 1]]),  # the wall between them counts
        ([4, 6], 10, [[0], [1]]),
        ([20, 3, 3, 20, 3], 10, [[0], [1, 2], [3], [4]]),
    ],
)
def test_batches_are_bounded(lengths: list[int], limit: int, expected: list[list[int]]) -> None:
    assert [list(part) for part in batches(lengths, limit)] == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("refine", [True, False])
def test_many_are_what_each_is_alone(small: Small, method: str, refine: bool) -> None:
    """In float64, where nothing but a leak between chunks could show."""
    net = small().double()
    options = {"method": method, "k_step": 30, "speedup": 1 if method == "ddpm" else 5}
    many = net.infer_many(make_chunks(refine=refine), **options)
    for chunk, found in zip(make_chunks(refine=refine), many, strict=True):
        torch.testing.assert_close(found, alone(net, chunk, **options), rtol=1e-10, atol=1e-10)
        assert found.std() > 0.1


def test_float32_within_the_stated_tolerance(small: Small) -> None:
    net = small()
    many = net.infer_many(make_chunks(dtype=torch.float32), k_step=60, speedup=6)
    for chunk, found in zip(make_chunks(dtype=torch.float32), many, strict=True):
        torch.testing.assert_close(
            found, alone(net, chunk, k_step=60, speedup=6), rtol=0, atol=1e-4
        )


def test_neighbours_and_order_do_not_matter(small: Small) -> None:
    net = small().double()
    expected = net.infer_many(make_chunks())
    backwards = net.infer_many(make_chunks()[::-1])[::-1]
    for one, other in zip(expected, backwards, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    loud = make_chunks()
    loud[1] = Chunk(
        loud[1].units * 1e6, loud[1].f0, loud[1].volume, 1, mel=loud[1].mel, generator=loud[1].generator
    )  # fmt: skip
    changed = net.infer_many(loud)
    torch.testing.assert_close(changed[0], expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(changed[2], expected[2], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(changed[1], expected[1])


def test_what_cannot_go_together(small: Small) -> None:
    net = small()
    assert net.infer_many([]) == []
    mixed = [*make_chunks(lengths=(3,)), *make_chunks(lengths=(3,), refine=False)]
    with pytest.raises(ValueError, match="some chunks have a mel"):
        net.infer_many(mixed)
    (chunk,) = make_chunks(lengths=(3,), dtype=torch.float32)
    wrong = Chunk(chunk.units, chunk.f0, chunk.volume, 3, mel=chunk.mel)
    with pytest.raises(ConfigError, match=r"speaker id 3: .* ids 0 to 2"):
        net.infer_many([wrong])
    with pytest.raises(ConfigError, match="k_step 101 is more"):
        net.infer_many([chunk], k_step=101)
