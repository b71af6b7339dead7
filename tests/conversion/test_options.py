from __future__ import annotations

import math

import pytest

from svc.conversion.options import InferOptions
from svc.errors import ConfigError


def test_defaults_are_the_originals() -> None:
    options = InferOptions()
    assert (options.transpose, options.noise_scale, options.slice_db) == (0, 0.4, -40)
    assert (options.clip_seconds, options.crossfade_seconds) == (0, 0)
    assert (options.crossfade_retain, options.pad_seconds) == (0.75, 0.5)
    assert (options.loudness_envelope, options.seed, options.auto_f0) == (1, 52468, False)
    assert (options.keep_breath, options.keep_unvoiced) == (0, 0)


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("transpose", 61, "--trans"),
        ("transpose", math.nan, "--trans"),
        ("noise_scale", -0.1, "--noise_scale"),
        ("slice_db", 3, "--slice_db"),
        ("clip_seconds", -1, "--clip"),
        ("clip_seconds", 0.01, "--clip"),
        ("crossfade_seconds", math.inf, "--linear_gradient"),
        ("crossfade_retain", 0, "--linear_gradient_retain"),
        ("crossfade_retain", 1.1, "--linear_gradient_retain"),
        ("pad_seconds", -0.5, "--pad_seconds"),
        ("loudness_envelope", 2, "--loudness_envelope_adjustment"),
        ("keep_breath", 1.5, "--keep_breath"),
        ("keep_unvoiced", -0.1, "--keep_unvoiced"),
        ("max_chunk_seconds", 0.5, "--max_chunk"),
        ("seed", -1, "--seed"),
        ("seed", 2**63, "--seed"),
    ],
)
def test_a_value_out_of_range_names_its_flag(name: str, value: float, flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        InferOptions(**{name: value})


def test_the_overlap_must_fit_into_a_clip() -> None:
    InferOptions(clip_seconds=1, crossfade_seconds=1)
    InferOptions(crossfade_seconds=9)  # has no effect without clip_seconds
    with pytest.raises(ConfigError, match="overlap must fit"):
        InferOptions(clip_seconds=1, crossfade_seconds=1.5)
