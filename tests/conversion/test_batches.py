from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from svc.conversion.batches import BatchSize, bytes_of_frame
from svc.errors import SvcError


def run(batch: BatchSize, lengths: Sequence[int], most: int = 10**9) -> list[list[int]]:
    """Groups that are rendered, where more than `most` frames do not fit."""
    groups: list[list[int]] = []
    tidied: list[bool] = []

    def render(group: Sequence[int]) -> list[str]:
        if max(lengths[index] for index in group) * len(group) > most:
            raise MemoryError("no more")
        groups.append(list(group))
        return [f"window {index}" for index in group]

    made = batch.render(lengths, render, lambda: tidied.append(True))
    assert made == [f"window {index}" for index in range(len(lengths))]
    assert bool(tidied) == (batch.frames < 1000)
    return groups


def test_like_lengths_go_together() -> None:
    assert run(BatchSize(1000), [100, 20, 90, 95, 21]) == [[0, 3, 2], [4, 1]]
    assert run(BatchSize(1000), [400, 400, 400, 400]) == [[0, 1], [2, 3]]
    assert run(BatchSize(1000), []) == []
    assert run(BatchSize(1000), [5000]) == [[0]]  # longer than a batch: alone


def test_nothing_is_grouped_where_nothing_is_gained() -> None:
    alone = BatchSize()
    assert alone.render([7, 9], lambda group: list(group), lambda: None) == [0, 1]
    assert BatchSize.usual(torch.device("cpu"), 1).frames == 0


def test_what_does_not_fit_is_halved_and_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    batch = BatchSize(999)
    assert run(batch, [100] * 8, most=250) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert batch.frames == 200
    assert run(batch, [100] * 3, most=150) == [[0], [1], [2]]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "800 frames at a time do not fit" in caplog.text


@pytest.mark.parametrize(
    ("lengths", "error"),
    [
        ([100], MemoryError("a window alone")),
        ([100, 100], RuntimeError("mat1 and mat2 shapes cannot be multiplied")),
        ([100, 100], SvcError("the model produced NaN")),
    ],
)
def test_other_errors_are_not_held_back(lengths: list[int], error: Exception) -> None:
    def render(group: Sequence[int]) -> list[int]:
        raise error

    with pytest.raises(type(error)):
        BatchSize(1000).render(lengths, render, lambda: pytest.fail("nothing to tidy"))


def test_a_cuda_device_takes_what_fits_into_half_of_its_free_memory(
    monkeypatch: pytest.MonkeyPatch, make_config: Any
) -> None:
    usual = dataclasses.replace(
        make_config().model,
        upsample_initial_channel=512,
        upsample_rates=(8, 8, 2, 2, 2),
        upsample_kernel_sizes=(16, 16, 4, 4, 4),
    )
    # Ten times 8192 floats, as many as the four last stages have, and the nine sines of 512 samples.
    assert bytes_of_frame(usual) == 10 * 4 * 8192 + 40 * 9 * 512
    free = {"bytes": 2**30}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free["bytes"], 2**37))
    device = torch.device("cuda")
    assert BatchSize.usual(device, bytes_of_frame(usual)).frames == 2**29 // bytes_of_frame(usual)
    free["bytes"] = 2**37
    assert BatchSize.usual(device, bytes_of_frame(usual)).frames == 8192
