"""The YAML file: environment, secrets, errors, and what is not taken."""

import pytest
from junctor import ConfigError
from junctor.config import parse, read

MODELS = "models: [{name: m, targets: [{target: openai/gpt-4o-mini, api_key: '${KEY}'}]}]"


def told(text, **environ):
    try:
        return "\n".join(parse(text, file="c.yaml", environ=environ).problems)
    except ConfigError as error:
        return "\n".join(error.problems)


def test_fills_in_the_environment_and_hides_the_secret():
    config = parse(MODELS, environ={"KEY": "sk-secret"})
    assert config.models["m"].targets[0].api_key == "sk-secret"
    assert "sk-secret" not in repr(config.settings)
    assert "sk-secret" not in repr(config.models)


def test_a_missing_variable_is_told_with_its_place_and_remedy():
    expected = "c.yaml: models[0].targets[0].api_key: the environment variable KEY is not set; `export KEY=…`"
    assert told(MODELS) == expected


def test_the_environment_beats_the_file(monkeypatch):
    monkeypatch.setenv("JUNCTOR_SERVER__PORT", "9000")
    settings = parse("server: {port: 4000, host: localhost}").settings
    assert (settings.server.port, settings.server.host) == (9000, "localhost")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server: [", "is not valid YAML"),
        ("- a", "must be a mapping"),
        ("server: {port: 1}\nserver: {port: 2}", "the key 'server' is given twice"),
        ("sever: {}", "sever: unknown key; did you mean 'server'?"),
        ("server: {port: 99999}", "server.port: Input should be less than or equal to 65535"),
        ("models: [{name: m, targets: [{target: gpt}]}]", "models[0].targets[0].target"),
        ("a: !!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("{a: " * 2000, "c.yaml: is n"),
    ],
)
def test_a_bad_file_is_told_with_file_and_place(text, expected):
    assert expected in told(text)


def test_a_flood_of_aliases_is_refused():
    assert "aliases" in told("a: &a [x]\nb: [" + ", ".join(["*a"] * 1500) + "]")


def test_a_wrong_secret_is_not_repeated_in_the_error():
    assert "sk-live" not in told("models: [{name: m, targets: [{target: openai/x, api_key: {v: sk-live}}]}]")


def test_a_file_that_is_not_there_is_told_with_the_remedy():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: .*; name another file with `-c FILE`"):
        read("nowhere.yaml")


def test_several_keys_make_several_targets():
    text = "models: [{name: m, targets: [{target: openai/x, api_keys: {one: sk-1, two: sk-2}}]}]"
    targets = parse(text).models["m"].targets
    assert [(t.key_id, t.api_key, t.id) for t in targets] == [
        ("one", "sk-1", "openai/x#one"),
        ("two", "sk-2", "openai/x#two"),
    ]


def test_time_outs_are_inherited_from_file_to_model_to_target():
    text = """
    timeouts: {connect: 1s, total: 2m}
    models: [{name: m, timeouts: {first_byte: 500ms}, targets: [{target: a/b, timeouts: {connect: 3}}]}]
    """
    timeouts = parse(text).models["m"].targets[0].timeouts
    assert (timeouts.connect, timeouts.first_byte, timeouts.total, timeouts.between_chunks) == (3, 0.5, 120, 60)


def test_a_price_in_the_file_is_dollars_per_million_tokens_and_beats_the_list():
    text = "models: [{name: m, targets: [{target: openai/gpt-4o-mini, price: {input: 0.1, output: $0.2}}]}]"
    price = parse(text).models["m"].targets[0].price
    assert (price.input, price.output, price.source) == (100_000_000, 200_000_000, "config")
