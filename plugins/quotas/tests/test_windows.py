"""Calendar windows: months of all lengths, and days on which the clocks change."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from junctor_quotas.windows import parse_window

CASES = [
    ("month", "UTC", "2024-02-29T23:59:59", "2024-02-01T00:00", "2024-03-01T00:00"),
    ("month", "UTC", "2026-12-31T23:59:59", "2026-12-01T00:00", "2027-01-01T00:00"),
    ("month", "Europe/Berlin", "2026-03-31T23:30", "2026-03-01T00:00", "2026-04-01T00:00"),
    ("month", "Asia/Tokyo", "2026-01-31T08:00", "2026-01-01T00:00", "2026-02-01T00:00"),
    ("week", "Europe/Berlin", "2026-03-29T12:00", "2026-03-23T00:00", "2026-03-30T00:00"),
    ("week", "UTC", "2027-01-01T12:00", "2026-12-28T00:00", "2027-01-04T00:00"),
    ("day", "America/New_York", "2026-03-07T12:00", "2026-03-07T00:00", "2026-03-08T00:00"),
]


def _at(text, zone):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(("name", "zone", "now", "start", "end"), CASES)
def test_a_period_begins_and_ends_at_midnight_of_its_time_zone(name, zone, now, start, end):
    period = parse_window(name, zone).period(_at(now, zone))
    assert period == (_at(start, zone) * 1000, _at(end, zone) * 1000)


@pytest.mark.parametrize(
    ("zone", "now", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", 25),
        ("America/New_York", "2026-11-01T01:30", 25),
        ("Africa/Cairo", "2025-04-25T12:00", 23),  # its clocks change at midnight, which is not there
        ("America/Havana", "2025-11-02T12:00", 25),  # and here midnight comes twice
        ("Australia/Lord_Howe", "2026-04-05T12:00", 24.5),
    ],
)
def test_a_day_on_which_the_clocks_change_is_as_long_as_it_is(zone, now, hours):
    start, end = parse_window("day", zone).period(_at(now, zone))
    assert end - start == hours * 3_600_000


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Africa/Cairo", "America/Havana", "Asia/Beirut", "Asia/Kathmandu"])
@pytest.mark.parametrize("name", ["day", "week", "month"])
def test_periods_follow_each_other_without_gap_or_overlap(zone, name):
    window = parse_window(name, zone)
    start, end = window.period(_at("2025-01-01T00:00", zone))
    for _ in range(400 if name == "day" else 30):
        assert window.period(end / 1000 - 0.001) == (start, end)
        following = window.period(end / 1000)
        assert following[0] == end < following[1]
        start, end = following


def test_every_hour_of_a_year_lies_in_its_own_period():
    window = parse_window("day", "America/Havana")
    begin = _at("2025-01-01T00:00", "America/Havana")
    for hour in range(24 * 366):
        now = begin + hour * 3600
        start, end = window.period(now)
        assert start <= now * 1000 < end


@pytest.mark.parametrize("text", ["fortnight", "0s", "500ms", "90d", "", "-1s"])
def test_what_is_no_window_is_told_with_what_is(text):
    with pytest.raises(ValueError, match="second, minute, hour, day, week, month"):
        parse_window(text, "UTC")


def test_what_is_no_time_zone_is_told_with_an_example():
    with pytest.raises(ValueError, match="Europe/Berlin"):
        parse_window("day", "Mars/Base")
