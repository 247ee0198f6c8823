"""Every fault, whole and streamed, with and without a second target: what the client gets, how many calls it took."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from junctor.faults import FAULTS, answer
from junctor.faulty_server import FaultyServer

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = "one two three four five six"
SECOND = "from the second"
OK = (200, "")
LIMITS = {"first_byte": 0.5, "between_chunks": 0.2, "total": 5}


class Row(NamedTuple):
    """`alone` and `streamed` are (status, code) with one target; calls by it with one target, and with two.

    `rescued` is whether a second target answers instead; `streamed_rescued` the same for a stream.
    """

    alone: tuple[int, str]
    calls: int
    rescued: bool
    calls_of_two: int
    streamed: tuple[int, str] | None = None
    streamed_calls: int | None = None
    streamed_rescued: bool | None = None


def again(status: int, code: str) -> Row:
    """Tried three times with one target; the second target is asked after one."""
    return Row((status, code), 3, True, 2)


def elsewhere(status: int, code: str) -> Row:
    """Not tried again with the same target; the second target is asked."""
    return Row((status, code), 1, True, 2)


def once(status: int, code: str) -> Row:
    """The client's own mistake."""
    return Row((status, code), 1, False, 1)


FINE = Row(OK, 1, False, 1)
BROKEN = Row((502, "protocol"), 3, True, 2)
# After the first token there is one typed error and no second answer.
MIDSTREAM = {"streamed_calls": 1, "streamed_rescued": False}

TABLE: dict[str, Row] = {
    "answer": FINE,
    "400": once(400, "invalid_value"),
    "401": elsewhere(502, "authentication"),
    "402": elsewhere(429, "insufficient_quota"),
    "403": elsewhere(502, "authentication"),
    "404": once(404, "model_not_found"),
    "408": again(504, "timeout"),
    "413": once(400, "context_length_exceeded"),
    "422": once(422, "invalid_value"),
    "429": again(429, "rate_limit_exceeded"),
    "429 quota": elsewhere(429, "insufficient_quota"),
    "429 retry-after": elsewhere(429, "rate_limit_exceeded"),
    "500": again(503, "overloaded"),
    "502 html": again(503, "overloaded"),
    "503": again(503, "overloaded"),
    "529": again(503, "overloaded"),
    "context too long": once(400, "context_length_exceeded"),
    "content policy": once(400, "content_policy_violation"),
    "redirect": BROKEN,
    "reset before headers": again(502, "connection"),
    "reset after headers": again(502, "connection"),
    "reset mid-body": again(502, "connection")._replace(streamed=(200, "connection"), **MIDSTREAM),
    "reset mid-chunk": again(502, "connection")._replace(streamed=(200, "connection"), **MIDSTREAM),
    "silence": again(504, "timeout"),
    "silence between chunks": again(504, "timeout")._replace(streamed=(200, "timeout"), **MIDSTREAM),
    "one byte at a time": FINE,
    "html with 200": BROKEN,
    "empty body": BROKEN,
    "half json": BROKEN,
    "length too large": BROKEN._replace(streamed=OK, **MIDSTREAM),
    "length too small": BROKEN._replace(streamed=(200, "protocol"), **MIDSTREAM),
    "broken gzip": BROKEN,
    "error first": again(503, "overloaded"),
    "error after three": again(503, "overloaded")._replace(streamed=(200, "overloaded"), **MIDSTREAM),
    "no done": FINE,
    "no finish": FINE._replace(streamed=(200, "protocol"), **MIDSTREAM),
    "finish twice": FINE,
    "bad utf-8": BROKEN,
    "64 MB": BROKEN,
}

CASES = [
    pytest.param(name, stream, second, id=f"{name}{', stream' * stream}{', second' * second}")
    for name in TABLE
    for stream in (False, True)
    for second in (False, True)
]


def outcome(answer: Any) -> tuple[int, str]:
    """Status and error code as the client sees them, in a stream the code of its last event."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        last = answer.events[-1]
        return answer.status, "" if last == "[DONE]" else last["error"]["code"]
    return answer.status, answer.json()["error"]["code"] if answer.status != 200 else ""


def test_the_table_has_every_fault_and_enough_cases() -> None:
    assert set(TABLE) == set(FAULTS)
    assert len(CASES) >= 60


@pytest.mark.parametrize(("name", "stream", "second"), CASES)
async def test_a_fault_has_its_outcome(world: Callable[..., Any], name: str, stream: bool, second: bool) -> None:
    row = TABLE[name]
    calls = row.streamed_calls if stream and row.streamed_calls else row.calls
    rescued = row.streamed_rescued if stream and row.streamed_rescued is not None else row.rescued
    expected = row.streamed if stream and row.streamed else row.alone
    servers = [FaultyServer(FAULTS[name])] + [FaultyServer(answer(SECOND))] * second
    started = time.monotonic()
    limits = {**LIMITS, "first_byte": 10, "total": 30} if name == "64 MB" else LIMITS  # it takes its time to arrive
    async with world(*servers, timeouts=limits) as w:
        got = await w.chat(stream=stream)
    if second and rescued:
        assert (outcome(got), got.text) == (OK, SECOND)
        assert got.headers["x-junctor-target"] == "faulty/two"
        assert (len(w.attempts), len(servers[0].requests)) == (row.calls_of_two, 1)
    else:
        assert outcome(got) == expected
        assert len(w.attempts) == len(servers[0].requests) == calls
        assert not second or not servers[1].requests
        assert expected != OK or got.text == TEXT
    assert "sk-secret" not in got.body.decode(errors="replace")
    assert time.monotonic() - started < 0.6 * len(w.attempts) + (20 if name == "64 MB" else 0.5)
