"""`junctor keys`, as an operator calls it."""

import io
import json
import re
import sys
import time

import pytest
from junctor.__main__ import main
from junctor_auth.settings import StoreSettings
from junctor_auth.store import KeyStore

CONFIG = """
models: [{{name: test, targets: [{{target: openai/m, api_key: sk-x}}]}}]
plugins: [auth: {{store: {{url: "{url}", encryption_key: "{encryption_key}"}}}}, relay]
"""


@pytest.fixture
def keys(tmp_path, sqlite_store, capsys):
    """A factory: run `junctor keys …`; gives the exit code, what was printed, and what was told beside."""
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.format(**sqlite_store))

    def run(*arguments):
        code = main(["keys", *arguments, "-c", str(file)])
        printed = capsys.readouterr()
        return code, printed.out.strip(), printed.err.strip()

    return run


@pytest.fixture
def store(sqlite_store):
    """The same store, opened anew for every look."""

    def look(key_id):
        opened = KeyStore(StoreSettings.model_validate(sqlite_store))
        try:
            return opened.get(key_id)
        finally:
            opened.close()

    return look


def test_a_key_is_printed_alone_so_that_a_script_can_take_it(keys, store):
    rights = ["--team", "web", "--models", "test", "--tag", "cost=17", "--allow-attribution", "feature,end_user"]
    code, printed, told = keys("create", "search", *rights, "--byok", "allowed", "--expires-in", "90d")
    assert code == 0
    assert re.fullmatch(r"jct-[0-9a-f]{12}-\w{43}", printed)
    assert "only time" in told
    kept = store(printed.split("-")[1])
    assert kept.rights["tags"] == {"cost": "17"}
    assert kept.rights["allow_attribution"] == ["feature", "end_user"]
    assert kept.expires == pytest.approx(time.time() + 90 * 86400, abs=60)


def test_keys_are_listed_without_their_secrets(keys):
    key = keys("create", "search", "--team", "web")[1]
    keys("create", "other", "--team", "ops")
    _, table, _ = keys("list")
    _, lines, _ = keys("list", "--team", "web", "--json")
    assert table.splitlines()[0].split() == ["ID", "NAME", "TEAM", "STATE", "EXPIRES", "MODELS"]
    assert len(table.splitlines()) == 3
    assert json.loads(lines)["prefix"] == key[:17]
    assert key[17:] not in table + lines


def test_a_key_is_revoked_rotated_and_expired(keys, store):
    key_id = keys("create", "a")[1].split("-")[1]
    _, new, told = keys("rotate", key_id, "--grace", "1h")
    assert new.startswith(f"jct-{key_id}-")
    assert "until" in told
    assert keys("expire", key_id, "--in", "7d")[0] == 0
    assert store(key_id).expires == pytest.approx(time.time() + 7 * 86400, abs=60)
    assert keys("expire", key_id, "--at", "2100-01-01")[1].endswith("ends 2100-01-01T00:00:00Z")
    assert keys("expire", key_id, "--never")[1].endswith("ends never")
    assert (keys("expire", key_id)[0], store(key_id).state) == (0, "expired")
    assert (keys("revoke", key_id)[0], store(key_id).state) == (0, "revoked")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["revoke", "0123456789ab"], "there is no key with this id"),
        (["revoke", "' OR 1=1"], "there is no key with this id"),
        (["create", "a", "--models", "tset"], "no model is named 'tset'; did you mean 'test'?"),
        (["create", "a", "--expires-in", "soon"], "expires_in"),
        (["create", "\n"], "name"),
        (["create", "a", "--allow-attribution", "tier"], "allow_attribution"),
        (["rotate", "0123456789ab", "--grace", "long"], "'long' is no duration"),
        (["provider", "set", "web", "opnai"], "no target is of 'opnai'; did you mean 'openai'?"),
    ],
)
def test_a_mistake_is_told_in_a_line(keys, arguments, told):
    code, printed, error = keys(*arguments)
    assert (code, printed) == (1, "")
    assert told in error
    assert "Traceback" not in error


def test_a_teams_provider_key_is_read_from_standard_input(keys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("sk-canary-0123456789-tail\n"))
    assert keys("provider", "set", "web", "openai")[0] == 0
    _, table, _ = keys("provider", "list")
    assert "…tail" in table
    assert "canary" not in table
    assert keys("provider", "remove", "web", "openai")[0] == 0
    assert len(keys("provider", "list")[1].splitlines()) == 1


def test_without_a_store_the_remedy_is_told(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text("models: [{name: test, targets: [{target: openai/m}]}]\nplugins: [auth, relay]\n")
    assert main(["keys", "list", "-c", str(file)]) == 1
    assert "`store: true`" in capsys.readouterr().err
