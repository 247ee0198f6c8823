"""Costs are integers, and what is unknown is not free."""

from junctor import Cost, Price, Usage
from junctor.prices import card


def test_each_part_of_the_usage_has_its_own_price():
    price = Price(input=150_000_000, output=600_000_000, cache_read=75_000_000, cache_write=187_500_000)
    usage = Usage(input_tokens=1000, output_tokens=10, cache_read_tokens=600, cache_write_tokens=100)
    assert price.of(usage) == Cost(input=45_000, output=6_000, cache_read=45_000, cache_write=18_750)


def test_parts_of_a_nano_dollar_are_rounded_to_the_nearest():
    assert Price(input=37_500_000).of(Usage(input_tokens=1)).total == 38
    assert Price(input=37_400_000).of(Usage(input_tokens=1)).total == 37


def test_a_dearer_tier_begins_above_its_size():
    price = Price(input=1_000_000, above=(200_000, Price(input=2_000_000)))
    assert price.of(Usage(input_tokens=200_000)).total == 200_000
    assert price.of(Usage(input_tokens=200_001)).total == 400_002


def test_knows_the_list_price_and_window_of_a_well_known_model():
    known = card("openai", "gpt-4o-mini")
    assert known.price is not None
    assert (known.price.input, known.price.output) == (150_000_000, 600_000_000)
    assert known.context_window == 128_000


def test_an_unknown_model_has_no_price():
    assert card("openai", "gpt-99-ultra").price is None
    assert card("groq", "gpt-4o-mini").price is None
