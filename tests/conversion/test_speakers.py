from __future__ import annotations

import pytest

from svc.conversion.speakers import find_speaker, list_speakers, only_speaker
from svc.errors import ConfigError

SPEAKERS = {"alice": 0, "bob": 1, "keys": 2, "0": 3, "歌手": 4}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("alice", ("alice", 0)),
        ("keys", ("keys", 2)),  # a method of dict, not a special word
        ("歌手", ("歌手", 4)),
        (0, ("alice", 0)),
        (4, ("歌手", 4)),
        ("4", ("歌手", 4)),
        ("0", ("0", 3)),  # a name wins over a number
    ],
)
def test_finds_by_name_number_and_digits(wanted: str | int, found: tuple[str, int]) -> None:
    assert find_speaker(SPEAKERS, wanted) == found


@pytest.mark.parametrize("wanted", [5, -1, "5", "-1", "Alic", "", "items", "1.0", "²"])
def test_unknown_speakers_are_refused(wanted: str | int) -> None:
    with pytest.raises(ConfigError, match="unknown speaker"):
        find_speaker(SPEAKERS, wanted)


def test_the_nearest_name_comes_first() -> None:
    with pytest.raises(ConfigError) as caught:
        find_speaker(SPEAKERS, "Bobby")
    assert 'this model knows "bob" (1), ' in str(caught.value)
    assert all(f'"{name}"' in str(caught.value) for name in SPEAKERS)


def test_long_lists_are_cut() -> None:
    text = list_speakers({f"voice{index}": index for index in range(200)}, "voice150")
    assert text.startswith('"voice150"')
    assert text.endswith("and 170 more")


def test_the_default_is_the_only_speaker() -> None:
    assert only_speaker({"solo": 0}) == "solo"
    with pytest.raises(ConfigError, match=r'5 speakers.*-s NAME.*"alice"'):
        only_speaker(SPEAKERS)
    with pytest.raises(ConfigError, match="empty"):
        only_speaker({})
