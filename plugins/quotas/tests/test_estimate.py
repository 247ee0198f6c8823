"""What a request will take, learned from what providers reported."""

from __future__ import annotations

import pytest
from junctor import Client, Exchange, Request, Usage
from junctor.wire import OpenAIWire
from junctor_quotas.estimate import Estimator


def _exchange(text="hello", *, model="m", key="k", size=None, operation="chat", **fields):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    request = Request(OpenAIWire(), operation, body, model, size=len(str(body)) if size is None else size)
    exchange = Exchange("id", request, None)
    exchange.client = Client(key_id=key)
    return exchange


def _teach(estimator, times, exchange, usage, events=0):
    for _ in range(times):
        estimator.learn(exchange, estimator.estimate(exchange), usage, events)


def test_the_input_is_a_quarter_of_the_bytes_until_the_model_is_known():
    assert Estimator(512).estimate(_exchange(size=4000)).input == 1000


def test_the_input_comes_near_to_what_the_model_reports():
    estimator, exchange = Estimator(512), _exchange(size=3000)
    _teach(estimator, 200, exchange, Usage(1500, 10))  # two bytes a token
    assert 1500 <= estimator.estimate(exchange).input <= 1600
    assert estimator.estimate(_exchange(size=3000, model="other")).input == 750


def test_the_client_s_own_maximum_counts_for_every_choice():
    estimate = Estimator(512).estimate(_exchange(max_tokens=100, n=3))
    assert (estimate.output, estimate.bounded) == (300, True)
    assert Estimator(512).estimate(_exchange(max_completion_tokens=70, max_tokens=100)).output == 70


@pytest.mark.parametrize("asked", [0, -5, "many", None, 1.5])
def test_a_maximum_that_is_none_is_not_believed(asked):
    assert Estimator(512).estimate(_exchange(max_tokens=asked)).output == 512


def test_the_output_is_what_nine_in_ten_answers_did_not_exceed():
    estimator, exchange = Estimator(512), _exchange()
    for number in range(100):
        estimator.learn(exchange, estimator.estimate(exchange), Usage(10, 1000 if number % 20 == 0 else 100), 0)
    assert 100 <= estimator.estimate(exchange).output <= 200


def test_a_client_with_long_answers_has_its_own_figure_and_new_ones_have_the_model_s():
    estimator, wordy, terse = Estimator(512), _exchange(key="wordy"), _exchange(key="terse")
    _teach(estimator, 20, wordy, Usage(10, 4000))
    _teach(estimator, 80, terse, Usage(10, 40))
    assert estimator.estimate(wordy).output >= 4000
    assert estimator.estimate(terse).output < 80
    assert estimator.estimate(_exchange(key="new")).output >= 4000  # nine in ten of the model's answers


def test_a_few_answers_are_not_enough_to_believe():
    estimator, exchange = Estimator(512), _exchange()
    _teach(estimator, 7, exchange, Usage(10, 20))
    assert estimator.estimate(exchange).output == 512


def test_a_model_that_changes_is_learned_anew():
    estimator, exchange = Estimator(512), _exchange()
    _teach(estimator, 250, exchange, Usage(10, 4000))
    _teach(estimator, 1500, exchange, Usage(10, 100))
    assert estimator.estimate(exchange).output < 200


def test_tokens_of_an_event_are_learned_from_streams():
    estimator, exchange = Estimator(512), _exchange()
    assert estimator.per_event("m") == 1.0
    _teach(estimator, 100, exchange, Usage(10, 400), events=101)
    assert 3.5 <= estimator.per_event("m") <= 4.1


def test_an_image_is_not_as_long_as_its_bytes():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    exchange = _exchange()
    exchange.request.body["messages"] = [{"role": "user", "content": [{"type": "text", "text": "what?"}, image]}]
    exchange.request.size = 400_200
    assert 1000 <= Estimator(512).estimate(exchange).input <= 2500


def test_embeddings_have_no_output():
    assert Estimator(512).estimate(_exchange(operation="embeddings")).output == 0


def test_what_is_learned_of_ten_thousand_clients_stays_bounded():
    estimator = Estimator(512)
    for number in range(10_000):
        _teach(estimator, 1, _exchange(key=str(number)), Usage(10, 20))
    assert estimator.remembered <= 3 * 4096
