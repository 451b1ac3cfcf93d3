"""The journal: who is champion, what is void, which requests are open, how many looks a
test split has had.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.promotion import parse_date
from pipeline.errors import ConfigError
from pipeline.promotion_journal import (
    Entry,
    TestSplit,
    count_looks,
    earlier_champions,
    read_history,
    to_reason,
)

START = datetime(2026, 11, 1, tzinfo=UTC)


def entry(kind: Any, champion: str, version: str, day: int = 0, **more: str) -> Entry:
    time = (START + timedelta(days=day)).isoformat()
    return Entry(
        kind=kind,
        champion=champion,
        version=version,
        by="test",
        reason="r",
        time=time,
        **more,
    )


def test_the_champion_is_what_valid_entries_lead_to() -> None:
    history = read_history(
        [
            entry("adopted", "", "1"),
            entry("promoted", "1", "2", 1),
            # Decided on a champion that is none any longer.
            entry("promoted", "1", "3", 2),
            entry("rolled-back", "2", "1", 3),
        ]
    )
    assert history.champion == "1"
    assert [one.version for one in history.valid] == ["1", "2", "1"]
    assert history.withdrawn == {"2"}
    assert history.champion_at(START + timedelta(days=1, hours=1)) == "2"
    assert history.champion_at(START - timedelta(days=1)) == ""


def test_a_version_put_back_by_hand_is_no_longer_withdrawn() -> None:
    entries = [
        entry("promoted", "", "1"),
        entry("promoted", "1", "2"),
        entry("rolled-back", "2", "1"),
    ]
    assert read_history(entries).withdrawn == {"2"}
    assert not read_history([*entries, entry("promoted", "1", "2")]).withdrawn


def test_rolling_back_goes_to_the_champion_before_that_is_not_withdrawn() -> None:
    history = read_history(
        [
            entry("promoted", "", "1"),
            entry("promoted", "1", "2"),
            entry("rolled-back", "2", "1"),
            entry("promoted", "1", "3"),
        ]
    )
    assert list(earlier_champions(history)) == ["1"]


def test_a_request_is_open_until_it_is_answered_lapses_or_is_overtaken() -> None:
    asked = [entry("promoted", "", "1"), entry("requested", "1", "2", 1)]
    day = START + timedelta(days=3)
    assert read_history(asked).find_request("2", 7, day) is not None
    assert read_history(asked).find_request("3", 7, day) is None
    assert read_history(asked).find_request("2", 7, START + timedelta(days=9)) is None
    ahead = START - timedelta(days=2)
    assert read_history(asked).find_request("2", 7, ahead) is None, "by a wrong clock"
    assert (
        read_history([*asked, entry("refused", "1", "2", 2)]).find_request("2", 7, day)
        is None
    )
    assert (
        read_history([*asked, entry("promoted", "1", "3", 2)]).find_request("2", 7, day)
        is None
    )
    again = [*asked, entry("refused", "1", "2", 2), entry("requested", "1", "2", 2)]
    assert read_history(again).find_request("2", 7, day) is not None


def split(digest: str, first: int, count: int = 10) -> TestSplit:
    names = tuple(str(number) for number in range(first, first + count))
    return TestSplit(digest=digest, examples=names, units=names)


def test_looks_count_once_each_until_half_of_the_test_split_is_new() -> None:
    first, grown, new = split("a", 0), split("b", 2, 12), split("c", 5)
    splits = {one.digest: one for one in (first, grown, new)}
    looks = [
        entry("verdict", "", "1", key="k1", test_split="a"),
        entry("verdict", "", "2", key="k2", test_split="a"),
    ]
    assert count_looks([], splits, first, "k1") == 1
    assert count_looks(looks, splits, first, "k2") == 2, "a repeat is free"
    assert count_looks(looks, splits, first, "k3") == 3
    assert count_looks(looks, splits, grown, "k3") == 3, "four of twelve are new"
    assert count_looks(looks, splits, new, "k3") == 1, "five of ten are new"


def test_a_reason_is_kept_short_enough_for_the_store() -> None:
    assert len(to_reason("word " * 2000)) <= 1500
    assert to_reason("a\n b") == "a b"


@pytest.mark.parametrize("text", ["2026-11-27", "20261127"])
def test_a_day_is_taken_to_its_end(text: str) -> None:
    assert parse_date(text) == datetime(2026, 11, 28, tzinfo=UTC)


@pytest.mark.parametrize("text", ["9999-12-31", "yesterday", "0001-01-01T00:00+14:00"])
def test_a_date_that_cannot_be_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="--at"):
        parse_date(text)
