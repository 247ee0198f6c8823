"""What is found, missed and falsely found, on made data."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import pytest
from junctor_content_policy import Scanner
from junctor_content_policy.settings import ContentPolicySettings, CustomSettings

spec = importlib.util.spec_from_file_location("policy_made", Path(__file__).with_name("made.py"))
made = importlib.util.module_from_spec(spec)
sys.modules["policy_made"] = made
spec.loader.exec_module(made)

DEFAULTS = ContentPolicySettings()
# Of 200 values of each kind: how many at least are found, whole and as what they are.
LEAST = {"secret": 200, "email": 200, "card": 200, "iban": 200, "phone": 200, "national_id": 200}


@pytest.fixture(scope="module")
def scanner():
    return Scanner(dict(DEFAULTS.patterns), countries=DEFAULTS.countries)


@pytest.mark.parametrize("kind", list(LEAST))
def test_values_are_found_whole_and_as_what_they_are(scanner, kind, record_property):
    missed = []
    for sample in made.samples(kind, 200):
        found = [(f.kind, sample.text[f.start : f.end]) for f in scanner.scan(sample.text)]
        if (kind, sample.value) not in found:
            missed.append((sample.text, found))
    record_property("found", 200 - len(missed))
    assert 200 - len(missed) >= LEAST[kind], missed[:5]


@pytest.mark.parametrize("kind", list(LEAST))
def test_nothing_else_is_found_beside_them(scanner, kind, record_property):
    extra = []
    for sample in made.samples(kind, 200):
        place = sample.text.find(sample.value)
        for f in scanner.scan(sample.text):
            if f.start >= place + len(sample.value) or f.end <= place:
                extra.append((sample.text, f))
    record_property("false", len(extra))
    assert not extra


def test_what_merely_looks_sensitive_is_not_found(scanner, record_property):
    false = []
    for sample in made.decoys(1000):
        false += [(sample.text, f.kind) for f in scanner.scan(sample.text)]
    record_property("false", len(false))
    assert len(false) <= 10, false  # one in a hundred: numbers whose check digit is right by chance


@pytest.mark.parametrize(
    "text",
    [
        "jane at example dot com",
        "de89370400440532013000 in small letters",
        "the key is 9b1deb4d3b7d4bad9bdd2b0d7b3dcb6d",
        "call 030 901820",
        "four one one one, one one one one",
        "４１１１ １１１１ １１１１ １１１１",
    ],
)
def test_what_the_documentation_says_is_missed_is_missed(scanner, text):
    assert not scanner.scan(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("DB_PASSWORD=hunter2!x", "hunter2!x"),
        ('{"client_secret": "8Gf-k2.Lq9"}', "8Gf-k2.Lq9"),
        ("postgresql://app:s3cr3tpw@db.internal/x", "s3cr3tpw"),
        ("Authorization: Bearer abcDEF123456789012345", "abcDEF123456789012345"),
    ],
)
def test_an_assigned_secret_is_found_without_its_name(scanner, text, value):
    assert [text[f.start : f.end] for f in scanner.scan(text)] == [value]


def test_the_first_kind_that_claims_a_stretch_keeps_it(scanner):
    text = "password=jane.roe@example.com1"
    assert [f.kind for f in scanner.scan(text)] == ["secret"]


def test_an_iban_does_not_take_the_next_word_with_it(scanner):
    text = "AT61 1904 3002 3457 3201 THEN"
    assert [text[f.start : f.end] for f in scanner.scan(text)] == ["AT61 1904 3002 3457 3201"]


def test_a_phone_number_does_not_take_the_year_with_it(scanner):
    text = "+1 415 555 2671 2024"
    assert [text[f.start : f.end] for f in scanner.scan(text)] == ["+1 415 555 2671"]


def test_numbers_at_home_count_only_where_a_region_is_named(scanner):
    text = "call (030) 901820 today"
    here = Scanner({"phone": "personal"}, phone_regions=["DE"])
    assert not scanner.scan(text)
    assert [f.kind for f in here.scan(text)] == ["phone"]


def test_own_patterns_and_word_lists_are_found_as_whole_words():
    custom = {"staff": CustomSettings(regex=r"EMP-\d{6}", label="internal")}
    words = {"projects": ("internal", ["Project Falcon", "art", "art deco"], True)}
    scanner = Scanner({}, custom=custom, words=words)
    text = "EMP-004711 works on PROJECT FALCON, not on party art decor; İstanbul has ART DECO"
    found = [(f.kind, text[f.start : f.end]) for f in scanner.scan(text)]
    assert found == [
        ("staff", "EMP-004711"),
        ("projects", "PROJECT FALCON"),
        ("projects", "art"),
        ("projects", "ART DECO"),
    ]


def test_a_word_list_may_mind_the_case():
    scanner = Scanner({}, words={"names": ("internal", ["Apple"], False)})
    assert [f.start for f in scanner.scan("apple Apple APPLE")] == [6]


def test_a_long_word_list_costs_no_more_than_a_short_one():
    listed = [f"word{n}" for n in range(50_000)]
    scanner = Scanner({}, words={"many": ("internal", listed, True)})
    assert [f.kind for f in scanner.scan("nothing here but word49999 and word499999")] == ["many"]


@pytest.mark.parametrize(
    "piece",
    [
        "0",
        "a",
        "@",
        "A1",
        "+1 ",
        "eyJ",
        "eyJ-",
        "-eyJa.",
        "sk-",
        "key= ",
        "://a:",
        "1234 ",
        "DE12 ",
        "a@a.",
        "[",
        "AB12",
        "(",
    ],
)
def test_no_text_takes_time_beyond_its_length(scanner, piece):
    started = time.process_time()
    scanner.scan(piece * (60_000 // len(piece)))
    assert time.process_time() - started < 5.0  # quadratic work would be minutes
