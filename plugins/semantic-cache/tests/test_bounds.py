import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junctor_semantic_cache.bounds import mean_budget, most_wrong, upper_bound


@pytest.mark.parametrize(
    ("wrong", "total", "bound"), [(0, 299, 0.00997), (1, 473, 0.00999), (0, 100, 0.0295), (5, 100, 0.1023)]
)
def test_the_bound_is_clopper_and_pearsons(wrong, total, bound):
    assert upper_bound(wrong, total) == pytest.approx(bound, abs=2e-4)


def test_nothing_seen_bounds_nothing():
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(3, 3) == 1.0


@given(st.integers(1, 3000), st.floats(0.001, 0.2))
def test_the_most_that_may_be_wrong_is_the_largest_count_below_the_limit(total, limit):
    most = most_wrong(total, limit)
    if most >= 0:
        assert upper_bound(most, total) <= limit + 1e-9
    assert upper_bound(most + 1, total) > limit - 1e-9


def test_few_requests_bear_no_wrong_answer():
    assert most_wrong(298, 0.01) == -1
    assert most_wrong(299, 0.01) == 0


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_more_requests_bear_no_less(one, other):
    less, more = sorted((one, other))
    assert mean_budget(less, 0.01) <= mean_budget(more, 0.01) + 1e-9


@pytest.mark.parametrize("total", [300, 600, 2500, 10_000])
def test_a_count_with_the_budgets_mean_keeps_the_bound_nine_times_in_ten(total):
    mean, most = mean_budget(total, 0.01), most_wrong(total, 0.01)
    kept = sum(math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) for k in range(most + 1))
    assert kept == pytest.approx(0.9, abs=0.02)


def test_without_a_limit_above_nothing_there_is_no_budget():
    assert mean_budget(1000, 0.0) == 0.0
    assert mean_budget(0, 0.01) == 0.0


@pytest.mark.parametrize("limit", [0.001, 0.01, 0.3])
def test_the_budget_grows_with_the_requests_without_end(limit):
    totals = [int(1.3**power) for power in range(20, 60)]
    budgets = [mean_budget(total, limit) for total in totals]
    assert budgets == sorted(budgets)
    assert budgets[-1] / totals[-1] == pytest.approx(limit, rel=0.06)


def test_where_exact_and_normal_meet_there_is_no_step():
    below, above = mean_budget(40_000, 0.01), mean_budget(40_100, 0.01)
    assert 0 < above - below < 5
