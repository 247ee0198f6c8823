"""What several workers say of their plugins, put together."""

from junctor_dashboard.sources import caches_of, quotas_of

COUNTS = dict.fromkeys(("exact_hits", "shadow_hits", "shadow_wrong"), 0)


def namespace(whole, since, bound=0.02):
    """A worker's report of a namespace: requests, hits, verified and wrong ones, expected wrong, saved, paid."""
    fields = ("requests", "hits", "verified", "verified_wrong", "spent", "saved", "paid")
    both = {"whole": whole, "since": since}
    both = {name: COUNTS | dict(zip(fields, values, strict=True)) for name, values in both.items()}
    return {"mode": "serve", "max_wrong": 0.05, "wrong_bound_95": bound, **both}


def worker(**fields):
    return {"quotas": None, "exact_cache": None, "semantic_cache": None} | fields


def semantic(*reports):
    told = [worker(semantic_cache={"trouble": None, "namespaces": one}) for one in reports]
    return caches_of(told)["semantic"]["namespaces"]


def test_the_past_that_all_workers_have_read_counts_once():
    (row,) = semantic(
        {"faq": namespace((150, 60, 10, 1, 1.5, 600, 60), (50, 20, 4, 0, 0.5, 200, 20), 0.02)},
        {"faq": namespace((110, 44, 7, 1, 1.1, 440, 44), (10, 4, 1, 0, 0.1, 40, 4), 0.03)},
    )
    assert (row["requests"], row["hits"], row["verified"], row["verified_wrong"]) == (160, 64, 11, 1)
    assert (row["saved"], row["paid"]) == (640, 64)
    assert (row["share"], row["wrong"]) == (0.4, 0.01)
    assert row["bound"] == 0.03


def test_a_worker_that_has_not_seen_a_namespace_is_no_hindrance():
    (row,) = semantic({}, {"faq": namespace((10, 5, 0, 0, 0.1, 50, 0), (10, 5, 0, 0, 0.1, 50, 0))})
    assert (row["requests"], row["share"]) == (10, 0.5)


def test_the_namespace_that_is_asked_most_stands_first():
    few, many = ((n, 0, 0, 0, 0, 0, 0) for n in (1, 9))
    found = semantic({"a": namespace(few, few), "b": namespace(many, many)})
    assert [row["name"] for row in found] == ["b", "a"]


def test_what_is_used_is_shared_and_those_who_wait_are_added_up():
    row = {"name": "places", "scope": "team=search", "used": 0, "reserved": 1, "limit": 1}
    waiting = [worker(quotas=[row | {"queue": count}]) for count in (2, 0, 3)]
    assert quotas_of(waiting) == [row | {"queue": 5}]
