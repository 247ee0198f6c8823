import random

import numpy as np
import pytest
from junctor_semantic_cache.bounds import upper_bound, window_budget
from junctor_semantic_cache.controller import SIGNALS, Limits, Namespace
from junctor_semantic_cache.scoring import load_weights

PRIOR = load_weights().prior


def signals(score):
    """A candidate whose similarity and words together are worth this log-odds."""
    return (1.0, score, *[0.0] * (len(SIGNALS) - 2))


def replay(namespace, requests, *, seed, truth, spread=3.0):
    """Requests with scores from a normal distribution; `truth` gives the probability of wrong at a score."""
    chance, wrong, hits = random.Random(seed), 0, 0
    for _ in range(requests):
        namespace.request()
        score = chance.gauss(1.0, spread)
        bad = chance.random() < truth(score)
        verdict = namespace.judge(signals(score))
        if verdict.serve:
            namespace.served(verdict.risk)
            hits, wrong = hits + 1, wrong + bad
        if (not verdict.serve or chance.random() < verdict.verify) and namespace.learn(
            signals(score), wrong=bad, hit=verdict.serve
        ):
            namespace.adopt(namespace.fit()())
    return hits, wrong


def logistic(offset, slope=1.0):
    return lambda score: 1 / (1 + np.exp(offset + slope * score))


@pytest.mark.parametrize("truth", [logistic(0.0), logistic(-2.0), logistic(1.0, 0.5), logistic(-1.0, 2.0)])
def test_the_bound_of_wrong_answers_is_kept_in_most_runs(truth):
    kept = 0
    for seed in range(10):
        _, wrong = replay(Namespace(PRIOR), 1500, seed=seed, truth=truth)
        kept += upper_bound(wrong, 1500) <= 0.01
        assert wrong / 1500 <= 0.012
    assert kept >= 8


def test_easy_traffic_is_served_much():
    hits, _ = replay(Namespace(PRIOR), 3000, seed=1, truth=logistic(2.0, 2.0))
    assert hits > 800


def test_it_stops_by_itself_when_what_looked_safe_is_wrong():
    namespace = Namespace(PRIOR)
    replay(namespace, 1000, seed=2, truth=logistic(1.0))
    assert namespace.judge(signals(7.0)).serve
    for _ in range(150):
        if namespace.learn(signals(7.0), wrong=True, hit=True):
            namespace.adopt(namespace.fit()())
        namespace.request()
    assert not namespace.judge(signals(7.0)).serve


def test_a_new_namespace_serves_only_what_is_nearly_certain():
    namespace = Namespace(PRIOR)
    namespace.request()
    assert not namespace.judge(signals(3.0)).serve


def test_served_risk_never_exceeds_the_budget():
    namespace = Namespace(PRIOR)
    for _ in range(500):
        namespace.request()
        verdict = namespace.judge(signals(6.0))
        if verdict.serve:
            namespace.served(verdict.risk)
    assert 0 < namespace.spent <= 0.15


@pytest.mark.parametrize("limits", [Limits(max_wrong=0.0), Limits(max_wrong_per_hit=0.0)])
def test_no_wrong_answer_allowed_means_no_answer_by_meaning(limits):
    hits, _ = replay(Namespace(PRIOR, limits), 500, seed=3, truth=logistic(3.0))
    assert hits == 0


def test_a_limit_per_hit_serves_less():
    free, _ = replay(Namespace(PRIOR), 1500, seed=4, truth=logistic(0.0))
    held, _ = replay(Namespace(PRIOR, Limits(max_wrong_per_hit=0.005)), 1500, seed=4, truth=logistic(0.0))
    assert held < free


def test_hits_near_the_limit_are_verified_more():
    namespace = Namespace(PRIOR)
    replay(namespace, 1500, seed=5, truth=logistic(1.0))
    near = next(s for s in np.arange(8.0, 0.0, -0.1) if namespace.risk(signals(s)) > 0.7 * namespace.limit)
    assert namespace.judge(signals(12.0)).verify < 0.03
    assert namespace.judge(signals(near)).verify > 0.1


def test_a_judge_that_errs_costs_room():
    namespace = Namespace(PRIOR)
    replay(namespace, 1500, seed=6, truth=logistic(1.0))
    before = namespace.limit
    namespace.judge_checks, namespace.judge_false = 100, 20
    namespace.adopt(namespace.fit()())
    namespace.judge(signals(0.0))
    assert namespace.limit < before


def test_a_restart_goes_on_where_it_was():
    namespace = Namespace(PRIOR)
    replay(namespace, 800, seed=7, truth=logistic(1.0))
    again = Namespace(PRIOR)
    again.restore(namespace.dump())
    for score in (-2.0, 3.0, 6.0):
        assert again.risk(signals(score)) == pytest.approx(namespace.risk(signals(score)), abs=1e-3)
    assert again.report()["requests"] == 800
    assert again.labels == namespace.labels


def test_what_another_version_saved_is_left_out():
    namespace = Namespace(PRIOR)
    namespace.restore({"requests": 5, "labels": [[1.0, 2.0, 1]], "weights": [1.0], "lookups": [[1.0]]})
    assert namespace.requests == 5
    assert namespace.labels == 0


def test_learning_keeps_the_signs():
    namespace = Namespace(PRIOR)
    chance = random.Random(8)
    for _ in range(300):
        row = (1.0, *(chance.gauss(0, 2) for _ in SIGNALS[1:]))
        namespace.learn(row, wrong=chance.random() < 0.5)
    weights = namespace.fit()()
    assert (weights[1:] >= 0).all()


def test_the_report_bounds_what_was_verified():
    namespace = Namespace(PRIOR)
    hits, _ = replay(namespace, 2000, seed=9, truth=logistic(2.0, 2.0))
    report = namespace.report()
    assert report["hits"] == hits
    assert report["wrong_estimate"] <= 0.01
    assert 0 < report["wrong_bound_95"] <= report["hit_rate"]


def test_a_quiet_past_is_no_licence_for_a_bad_hour():
    namespace = Namespace(PRIOR)
    for _ in range(20_000):
        namespace.request()
    for _ in range(1000):
        namespace.request()
        verdict = namespace.judge(signals(6.0))
        if verdict.serve:
            namespace.served(0.05)
    assert 0 < namespace.spent <= window_budget(1000, 0.01) + 0.05


def test_the_last_thousand_requests_outlive_a_restart():
    namespace, again = Namespace(PRIOR), Namespace(PRIOR)
    for _ in range(20_000):
        namespace.request()
    namespace.served(window_budget(1000, 0.01))
    again.restore(namespace.dump())
    assert again.judge(signals(6.0)).why == "error budget spent"
