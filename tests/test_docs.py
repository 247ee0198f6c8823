"""What the documentation shows is what the code does."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from junctor.config import parse
from junctor.gateway import Gateway
from junctor.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "plugins").glob("*/README.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language):
    for page in PAGES:
        for number, (kind, text) in enumerate(BLOCK.findall(page.read_text())):
            if kind == language:
                yield pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")


@pytest.mark.parametrize("page", ["hooks.md", "configuration.md"])
def test_a_generated_page_is_up_to_date(page):
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"]
    assert (ROOT / "docs" / page).read_text() == pages[page](), "run `python docs/generate.py`"


@pytest.mark.parametrize("text", list(blocks("python")))
def test_every_python_example_compiles(text):
    assert compile(text, "example", "exec", flags=0x2000)  # await at the top level is fine in an example


class AnySecret(dict):
    """An environment in which every variable is set."""

    def get(self, name, default=None):
        return self[name]

    def __missing__(self, name):
        if name.endswith(("URL", "DATABASE")):
            return "redis://127.0.0.1/0" if "REDIS" in name else "postgresql://junctor:secret@127.0.0.1/junctor"
        return f"{name}-0123456789abcdef0123456789abcdef"


def as_configuration(text):
    """The example as a whole file; None for a part of a section, which its plugin's own tests look at."""
    tree = yaml.safe_load(text)
    if isinstance(tree, dict):
        return tree if tree.keys() & Settings.model_fields.keys() else None
    if all(isinstance(each, str) or (isinstance(each, dict) and len(each) == 1) for each in tree):
        return {"plugins": tree}
    return {"models": tree} if all("targets" in each for each in tree) else None


@pytest.mark.parametrize("text", list(blocks("yaml")))
def test_every_yaml_example_is_a_configuration_or_a_part_of_one(text):
    tree = as_configuration(text)
    if tree is not None:
        assert parse(yaml.safe_dump(tree), file="example", environ=AnySecret()).problems == []


def test_the_companys_configuration_is_good():
    text = (ROOT / "docs" / "config-production.yaml").read_text()
    gateway = Gateway(parse(text, file="config-production.yaml", environ=AnySecret()))
    assert gateway.warnings == []


def test_the_example_configuration_is_good():
    config = parse((ROOT / "config.example.yaml").read_text(), file="config.example.yaml", environ={})
    assert Gateway(config).models


def test_every_link_between_the_pages_leads_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if not re.match(r"\w+:", link):
                assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"


def test_the_example_plugin_is_found_by_entry_point_and_its_hooks_run(tmp_path):
    """Installed as a third party would install it, and named in the YAML."""
    package = ROOT / "docs" / "examples" / "junctor-politeness"
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(package)]
    subprocess.run(install, check=True)
    program = tmp_path / "use.py"
    program.write_text(USE_POLITENESS)
    run = subprocess.run([sys.executable, str(program), str(target)], capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["403", "impolite", "200", "1"], run.stderr


USE_POLITENESS = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from junctor import config
from junctor.gateway import Gateway
from junctor.plugins import Section
from junctor.settings import PluginSettings
from junctor.testing import FakeProvider, Harness

text = "{models: [{name: test, targets: [{target: fake/m}]}], plugins: [{politeness: {word: kindly}}]}"

async def main():
    fake = Section(-1, "fake", lambda: FakeProvider(), PluginSettings())
    async with Gateway(config.parse(text), extra=[fake]) as gateway:
        rude = await Harness(gateway).chat("answer me")
        kind = await Harness(gateway).chat("Kindly answer me")
        print(rude.status, rude.json()["error"]["code"], kind.status, kind.headers["x-polite-requests"])

asyncio.run(main())
"""
