"""Reading a text that the original program evaluates as code."""

from __future__ import annotations

from typing import Any

import pytest

from svc.speech.convolutions import check_convolutions, parse_convolutions
from svc.speech.frontend import CONV_KERNELS, CONV_STRIDES

STANDARD = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"


@pytest.mark.parametrize(
    "text",
    [
        STANDARD,
        "[(512, 10, 5)] + 4 * [(512, 3, 2)] + [(512,2,2)] + [(512,2,2)]",
        "[[512,10,5],[512,3,2],[512,3,2],[512,3,2],[512,3,2],[512,2,2],[512,2,2]]",
        " [(512,10,5)]+([(512,3,2)]*2)*2+[(512,2,2)]*2\n",
    ],
)
def test_convolutions_are_parsed(text: str) -> None:
    layers = parse_convolutions(text)
    assert layers == list(zip((512,) * 7, CONV_KERNELS, CONV_STRIDES))
    assert parse_convolutions(layers) == layers


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "[(512,10,5)] * 10**9",
        "[(512,10,5)] * 1000000000",
        "[[(512,10,5)] * 30] * 1000000",
        "[(512,10,5) for _ in range(3)]",
        "[(512,10)]",
        "[(512,10,5.0)]",
        "[(512,10,True)]",
        "[512,10,5]",
        "(512,10,5) + (512,3,2)",
        "[(512,10,5)] - [(512,3,2)]",
        "7",
        "'text'",
        "[(512,10,5)",
        "",
        "(" * 900,
        "[" + "(512,10,5)," * 200 + "]",
        "\x00",
        3,
        None,
        [(1, 2)],
        ["abc"],
    ],
)
def test_convolutions_that_are_no_list_of_numbers(text: Any) -> None:
    with pytest.raises(ValueError, match="conv_feature_layers") as caught:
        parse_convolutions(text)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_only_the_one_front_end_is_known() -> None:
    check_convolutions({}, "layers")
    check_convolutions({"layers": STANDARD}, "layers")
    with pytest.raises(ValueError, match=r"kernels \(10, 3, 3, 3, 3, 2\) and strides .* only"):
        check_convolutions({"layers": STANDARD.replace("* 2", "* 1")}, "layers")
    with pytest.raises(ValueError, match='unreadable "layers"'):
        check_convolutions({"layers": "eval('7')"}, "layers")
