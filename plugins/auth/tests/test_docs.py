"""The examples of the README and of docs/auth.md are configurations that work."""

import re
from pathlib import Path

import pytest
from junctor import config as configuration
from junctor.__main__ import main
from junctor.gateway import Gateway
from junctor.testing import FakeProvider, _section

HERE = Path(__file__).parents[1]
MODELS = "models: [{name: fast, targets: [{target: openai/m}]}]\n"
EXAMPLES = [
    (file.name, number, block)
    for file in (HERE / "README.md", HERE.parents[1] / "docs" / "auth.md")
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", file.read_text(), re.DOTALL))
]


class Environment(dict):
    """Every variable is set."""

    def get(self, name, default=None):
        return self[name]

    def __missing__(self, name):
        database = name == "KEYS_DATABASE"
        return "postgresql://user:password@host/database" if database else f"the-secret-{name}".ljust(40, "0")


@pytest.mark.parametrize(("name", "number", "example"), EXAMPLES)
def test_an_example_is_a_configuration_without_a_mistake(name, number, example):
    config = configuration.parse(MODELS + example, file=name, environ=Environment())
    gateway = Gateway(config, extra=[_section(FakeProvider())])
    assert gateway.authenticates


def test_the_commands_of_the_readme_are_there(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(MODELS + "plugins: [auth: {store: true}, relay]\n")
    commands = re.findall(r"junctor (keys \w+)", (HERE / "README.md").read_text())
    assert len(commands) == 6
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), "--help", "-c", str(file)])
        assert ended.value.code == 0
        assert "usage: junctor" in capsys.readouterr().out
