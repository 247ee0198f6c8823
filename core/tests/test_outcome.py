"""The one word, and the status, for every way in which an exchange can end."""

import asyncio

import pytest
from junctor import (
    ClientDisconnected,
    DeadlineExceeded,
    ErrorKind,
    NoTarget,
    PluginFailed,
    ProviderError,
    Refused,
    Response,
)
from junctor.outcome import OUTCOMES, outcome_of

ENDS = [
    (Response(), None, ("answered", 200)),
    (None, None, ("answered", 200)),
    (Response(status=201, cached="exact"), None, ("cached", 201)),
    (Response(), ClientDisconnected("x"), ("cancelled", 499)),
    (None, DeadlineExceeded("x"), ("timeout", 504)),
    (None, NoTarget("x"), ("failed", 503)),
    (None, PluginFailed("x"), ("failed", 503)),
    (None, ProviderError("x", kind=ErrorKind.OVERLOADED), ("failed", 503)),
    (None, Refused("x"), ("refused", 403)),
    (None, asyncio.CancelledError(), ("cancelled", 503)),
    (None, ValueError("x"), ("failed", 500)),
]


@pytest.mark.parametrize(("response", "error", "outcome"), ENDS)
def test_every_end_has_an_outcome_and_a_status(response, error, outcome):
    assert outcome_of(response, error) == outcome


def test_these_are_all_the_outcomes():
    assert {outcome for _, _, (outcome, _) in ENDS} == set(OUTCOMES)
