"""The text of curves: what spreadsheets and other programs leave, and every error with its line."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from svc.audio.pitch import F0Track
from svc.errors import CurveError
from svc.f0.curve_csv import CurvePoints, csv_text, parse_csv

TEXT = """time_s,f0_hz,voiced,confidence
0.000000,220.5,0,0.125
0.011610,220.5,1,0.5
0.023220,330.25,1,1.0
"""


def parse(text: str | bytes) -> CurvePoints:
    return parse_csv(text.encode() if isinstance(text, str) else text, "a.csv")


def equal(points: CurvePoints, *, confidence: bool = True) -> None:
    np.testing.assert_array_equal(points.times, [0, 0.01161, 0.02322])
    np.testing.assert_array_equal(points.f0, [220.5, 220.5, 330.25])
    np.testing.assert_array_equal(points.voiced, [False, True, True])
    if confidence:
        np.testing.assert_array_equal(points.confidence, [0.125, 0.5, 1.0])
    else:
        assert points.confidence is None


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip("\n"),
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r"),
        "\ufeff" + TEXT,
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.replace(",", "\t"),
        TEXT.replace(",", ";"),
        TEXT.replace(",", ";").replace(".", ","),
        TEXT.replace(",", "\t").replace(".", ","),
        "sep=;\r\n" + TEXT.replace(",", ";"),
        "# made by hand\n\n" + TEXT.replace("\n", "\n\n# note\n"),
        TEXT.replace("\n", ",,\n"),
        TEXT + ",,,\n;;;\n  \n",
        TEXT.replace(",", " , "),
        "\n".join('"' + line.replace(",", '","') + '"' for line in TEXT.splitlines()),
        TEXT.replace(",0,", ",False,").replace(",1,", ",TRUE,"),
        TEXT.replace(",0,", ",0.0,").replace(",1,", ",1.0,"),
        TEXT.upper(),
        TEXT.replace("time_s", "Time").replace("f0_hz", "Frequency"),
        "\n".join(line + ",my note" for line in TEXT.splitlines()),
        TEXT.replace("220.5,1", "2.205E+02,1"),
    ],
)
def test_the_same_curve_in_many_spellings(text: str | bytes) -> None:
    equal(parse(text))


def test_columns_may_move_and_go() -> None:
    rows = [line.split(",") for line in TEXT.splitlines()]
    equal(parse("\n".join(",".join((r[2], r[1], r[0])) for r in rows)), confidence=False)
    equal(parse("\n".join(",".join((*r[:3], "")) for r in rows)), confidence=False)
    equal(parse("\n".join(",".join((*r[:3], "hm", r[3])) for r in rows)))


def test_confidence_of_added_rows_may_be_empty() -> None:
    points = parse(TEXT.replace("0.5\n", "\n"))
    np.testing.assert_array_equal(points.confidence, [0.125, 0.0, 1.0])


@pytest.mark.parametrize(
    "text", ["0,0\n0.01,220\n0.02,330\n", "0 0\n.01\t220\n0.02  330", "0;0\n0,01;220\n0,02;330"]
)
def test_two_columns_need_no_header(text: str) -> None:
    points = parse(text)
    np.testing.assert_array_equal(points.times, [0, 0.01, 0.02])
    np.testing.assert_array_equal(points.f0, [0, 220, 330])
    np.testing.assert_array_equal(points.voiced, [False, True, True])


def test_unvoiced_rows_may_leave_the_pitch_out() -> None:
    points = parse("time_s,f0_hz,voiced\n0,,0\n0.1,220,\n0.2,220,1\n")
    np.testing.assert_array_equal(points.f0, [0, 220, 220])
    np.testing.assert_array_equal(points.voiced, [False, False, True])


HEAD = "time_s,f0_hz,voiced,confidence\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.csv holds no rows; its first line has to be  time_s,f0_hz,voiced,confidence"),
        ("# nothing\n\n", "holds no rows"),
        (HEAD, "no rows below"),
        ("time_s,voiced\n0,1", r"line 1: no column f0_hz \(found: time_s, voiced\)"),
        ("\n\nf0_hz,voiced\n0,1", "line 3: no column time_s"),
        ("hello world", "line 1: no column time_s"),
        ("time,time_s,f0_hz\n0,0,1", "two columns for time_s"),
        ("0,220,1,0.5\n0.1,220,1,0.5", "line 1: the names of the columns are missing"),
        ("# x\n" + HEAD + "0,220,1,\n0.1,nan,1,", 'line 4: f0_hz is "nan", not a number; write 0'),
        (HEAD + "0,inf,1,", 'line 2: f0_hz is "inf"'),
        (HEAD + "0,--undefined--,0,", 'line 2: f0_hz is "--undefined--"'),
        (HEAD + "0,2_20,1,", 'f0_hz is "2_20"'),
        (HEAD + "0,٢٢٠,1,", "not a number"),
        (HEAD + "0,-220,1,", "line 2: f0_hz is -220; f0_hz is in Hz .* and 0 where nothing"),
        (HEAD + "0,220512,1,", "line 2: f0_hz is 220512"),
        (HEAD + "0,220,1,\n0,221,1,", "line 3: time_s is 0 after 0; times have to increase"),
        (HEAD + "0.5,220,1,\n0.25,221,1,", "line 3: time_s is 0.25 after 0.5"),
        (HEAD + "-1,220,1,", "line 2: time_s is -1, below 0"),
        (HEAD + ",220,1,", "line 2: time_s is empty, not a number"),
        (HEAD + "0,0,1,", "line 2: voiced is 1, but f0_hz is 0"),
        (HEAD + "0,,1,", "line 2: voiced is 1, but f0_hz is empty"),
        (HEAD + "0,220,0.5,", 'line 2: voiced is "0.5"; it is 1 or 0'),
        (HEAD + "0,220,maybe,", 'voiced is "maybe"'),
        (HEAD + "0,220,1,50", "line 2: confidence is 50, not in 0..1; .*delete the column"),
        (HEAD + "0,0,220,5,1,0,5", r'line 2: 7 cells in 4 columns; .* decimal comma need ";"'),
        (
            "time_s,f0_hz,confidence\n0,220,0.1\n0.1,221,0.9",
            "no column voiced, and f0_hz is above 0",
        ),
        (b"RIFF\0\0\0\0WAVE", "neither CSV in UTF-8 nor MIDI"),
        (b"\xff\xd8\xe0", "neither CSV in UTF-8 nor MIDI"),
    ],
)
def test_errors_are_one_line_with_the_place(text: str | bytes, message: str) -> None:
    with pytest.raises(CurveError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("a.csv")


def rows(values: list[float], unvoiced: bool = True) -> str:
    lines = [f"{0.01 * i:.2f},{value:.17g},1" for i, value in enumerate(values, start=1)]
    return "time_s,f0_hz,voiced\n0,0,0\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([60, 60, 60, 62, 62, 64, 64, 64], "line 3: f0_hz holds only whole numbers from 60 to 64"),
        ([72, 76, 79, 84], "MIDI note numbers; f0_hz is in Hz"),
        (list(np.log2([200, 220, 300])), "looks like logarithms"),
        (list(np.log([90, 1000])), "lies between 4.5 and 6.908"),
        (list(np.log10([90, 1000])), "logarithms"),
        ([5000, 5100, 5200.5], "looks like cents"),
        ([6000, 7200, 6400], "lost their decimal point"),
    ],
)
def test_other_units_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(CurveError, match=message):
        parse(rows(values))


@pytest.mark.parametrize(
    "values",
    [
        [65.4, 73.4, 82.4, 98.0],  # the lowest notes of a bass
        [98, 92, 87, 98, 104],  # whole Hz of a low speaker
        [100] * 20,
        [60] * 20,
        [55.5, 58.25, 61.75],
        [1046.5, 1568, 2093, 3136],  # whistles
        [30.5, 220, 221],
        [28.0, 29.1],
    ],
)
def test_low_and_high_voices_are_not_refused(values: list[float]) -> None:
    np.testing.assert_array_equal(parse(rows(values)).f0[1:], values)


def test_a_very_low_curve_is_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        parse(rows([48.3, 50.1, 52.2]))
    assert "half of f0_hz lies below 50.1; f0_hz is in Hz" in caplog.text


def test_float32_survives_text_whatever_its_digits(rng: np.random.Generator) -> None:
    bits = rng.integers(0x3F800000, 0x46000000, 20000, dtype=np.int64).astype(np.uint32)
    f0 = np.sort(bits).view(np.float32)  # 1 to 8192 Hz, every mantissa
    track = F0Track(f0, np.ones(len(f0), np.float32), (f0 / 8192).astype(np.float32))
    points = parse(csv_text(np.arange(len(f0)) * 0.01, track))
    np.testing.assert_array_equal(points.f0.astype(np.float32), f0)
    assert points.confidence is not None
    np.testing.assert_array_equal(points.confidence.astype(np.float32), track.confidence)
