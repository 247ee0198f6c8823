import pytest
from hypothesis import given
from hypothesis import strategies as st
from junctor_semantic_cache.evidence import FEATURES, compare, normalise, parse, veto
from junctor_semantic_cache.words import opposite


def evidence(one, other, cosine=0.95):
    return dict(zip(FEATURES, compare(parse(one), parse(other), cosine), strict=True))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How far is the moon?", "  how  far is\nthe moon ?"),
        ("Is there WiFi", "is there wifi?!"),
        ("Does C++ have modules?", "does c++ have modules"),
    ],
)
def test_case_space_and_the_last_mark_are_no_difference(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("What is IT?", "What is it?"), ("Ask WHO", "Ask who"), ("a - b", "a + b")])
def test_other_letters_are_a_difference(one, other):
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("Fly 3 people to Rome", "Fly 4 people to Rome", "numbers"),
        ("Is the bar open at 2pm?", "Is the bar open at 2am?", "numbers"),
        ("Is it open in June?", "Is it open in July?", "numbers"),
        ("Wait seven days", "Wait 7 days", None),
        ("A budget of 25k", "A budget of 25,000", None),
        ("Is the pool open on Monday?", "Is the pool open on Tuesday?", "numbers"),
        ("Walk 5 miles", "Walk 5 km", "units"),
        ("Explain `map`", "Explain `filter`", "exact text"),
        ("Mail a@b.io", "Mail c@b.io", "exact text"),
    ],
)
def test_numbers_units_and_quoted_text_forbid(one, other, why):
    assert veto(parse(one), parse(other)) == why
    assert veto(parse(other), parse(one)) == why


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ("Which plants like shade?", "Which plants do not like shade?", "negation"),
        ("Lock the gate", "Unlock the gate", "opposite"),
        ("Is the lift free?", "Is the lift busy? no, quiet", "added"),
        ("Send it from Rome to Oslo", "Send it from Oslo to Rome", "roles"),
        ("Did Ann hire Bob?", "Did Bob hire Ann?", "permuted"),
        ("Did Ann hire Bob?", "Was Ann hired by Bob?", "permuted"),
        ("When is the ferry?", "Where is the ferry?", "question"),
        ("Pack before lunch", "Pack after lunch", "sequence"),
        ("Is the tour for all guests?", "Is the tour for most guests?", "scope"),
        ("Who leads the team in Spain?", "Who leads the team in Peru?", "names"),
        ("What is the fee in France?", "What is the fee?", "name_extra"),
        ("Room for 3", "Room", "number_extra"),
    ],
)
def test_evidence_against_is_seen(one, other, name):
    assert evidence(one, other)[name] > 0
    assert evidence(one, other)["clean"] == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I fold a napkin?", "Hi, how can I fold a napkin please?"),
        ("In the garden, how do I plant a rose?", "How do I plant a rose in the garden?"),
        ("Did Ann hire Bob?", "Was Bob hired by Ann?"),
        ("Is Ann married to Bob?", "Is Bob married to Ann?"),
        ("What is the way to sharpen a chisel?", "How do I sharpen a chisel?"),
        ("How do I grow strawberries?", "How do I grow strawberies?"),
    ],
)
def test_other_dress_of_the_same_question_is_clean(one, other):
    assert evidence(one, other)["clean"] > 0


@pytest.mark.parametrize(("one", "other"), [("increase", "decreasing"), ("valid", "invalid"), ("hopeful", "hopeless")])
def test_opposites_by_list_prefix_and_ending(one, other):
    assert opposite(one, other)
    assert opposite(other, one)


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_two_texts_can_be_compared(one, other):
    values = compare(parse(one), parse(other), 0.5)
    assert len(values) == len(FEATURES)
    assert all(abs(value) <= 10 for value in values)
    assert (veto(parse(one), parse(other)) is None) == (veto(parse(other), parse(one)) is None)


@given(st.text(max_size=200))
def test_a_text_never_speaks_against_itself(text):
    own = parse(text)
    assert veto(own, own) is None
    assert compare(own, own, 1.0)[FEATURES.index("overlap")] == 1.0
    assert normalise(normalise(text)) == normalise(text)
