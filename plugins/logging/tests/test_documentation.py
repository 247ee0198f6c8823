"""The documentation says what the code does: every field, every example, every setting."""

import re
from pathlib import Path

import pytest
import yaml
from junctor_logging.costs import DIMENSIONS
from junctor_logging.record import SCHEMA, AttemptLine, Money, Price, Record, Tokens
from junctor_logging.settings import ContentRule, LoggingSettings, SpoolSettings
from junctor_logging.sinks import read_sinks
from msgspec.structs import fields

PACKAGE = Path(__file__).parents[1]
DOCS = PACKAGE.parents[1] / "docs"
LOGGING, COSTS = (DOCS / "logging.md").read_text(), (DOCS / "costs.md").read_text()
README = (PACKAGE / "README.md").read_text()


def first_cells(text):
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])]


def test_the_schema_is_documented_field_by_field_in_order():
    record, attempt = LOGGING.split("An object of `attempts`:")
    assert first_cells(record) == [field.name for field in fields(Record)]
    assert first_cells(attempt.split("## Sinks")[0]) == [field.name for field in fields(AttemptLine)]
    assert f"schema version {SCHEMA}" in LOGGING


@pytest.mark.parametrize(("name", "kind"), [("usage", Tokens), ("cost", Money), ("price", Price)])
def test_the_parts_of_an_attempt_are_documented(name, kind):
    row = next(
        line for line in LOGGING.split("An object of `attempts`:")[1].splitlines() if line.startswith(f"| `{name}`")
    )
    assert {field.name for field in fields(kind)} <= set(re.findall(r"`([a-z_]+)`", row))


def test_the_example_of_the_readme_is_a_configuration_and_names_every_setting():
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])
    section = example["plugins"][0]["logging"]
    settings = LoggingSettings.model_validate(section)
    assert [sink.label for sink in read_sinks(settings.sinks)] == ["ledger", "json_lines", "otlp"]
    assert set(section) | {"timeout", "on_failure"} == set(LoggingSettings.model_fields)
    assert set(section["spool"]) == set(SpoolSettings.model_fields)
    assert set(section["content"][0]) | {"redact"} == set(ContentRule.model_fields)


def test_every_dimension_of_a_report_is_documented():
    for name in DIMENSIONS:
        assert f"`{name}`" in COSTS


def test_the_defaults_that_are_told_are_the_defaults():
    settings = LoggingSettings()
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])["plugins"][0]["logging"]
    told = LoggingSettings.model_validate(example)
    for name in ("queue", "batch", "flush", "close_timeout", "recent"):
        assert getattr(settings, name) == getattr(told, name)
    assert settings.spool.retry == told.spool.retry
    assert settings.content == ()
