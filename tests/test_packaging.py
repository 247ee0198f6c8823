"""The folders, the lists and the declared dependencies agree."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists())


def project(folder):
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text())


def test_the_root_installs_every_plugin_that_has_a_folder():
    root = project(".")
    listed = root["project"]["dependencies"] + root["project"]["optional-dependencies"]["local"]
    requirements = [Requirement(line.replace("{root:uri}", "file:///x")) for line in listed]
    names = {requirement.name for requirement in requirements if requirement.url}
    assert names == {"junctor", *(f"junctor-{name}" for name in PLUGINS)}
    assert set(root["tool"]["uv"]["sources"]) == names | {"junctor-all"}


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugins_names_follow_the_pattern(name):
    described = project(f"plugins/{name}")["project"]
    module = name.replace("-", "_")
    assert described["name"] == f"junctor-{name}"
    assert list(described["entry-points"]["junctor"]) == [module]
    assert described["entry-points"]["junctor"][module].startswith(f"junctor_{module}:")
    assert (ROOT / "plugins" / name / "README.md").stat().st_size > 300


@pytest.mark.parametrize("folder", ["core", *(f"plugins/{name}" for name in PLUGINS)])
def test_what_is_imported_is_declared(folder):
    described = project(folder)["project"]
    declared = declared_by(described) | {described["name"], "pytest"}
    if folder != "core":
        # Routes are Starlette's, settings are pydantic's: that is the core's contract with its plugins.
        declared |= declared_by(project("core")["project"])
    owners = packages_distributions()
    for file in (ROOT / folder / "src").rglob("*.py"):
        for module in imported(file):
            owned = {name.lower().replace("_", "-") for name in owners.get(module, [module])}
            optional = module.startswith("junctor_") and module != described["name"].replace("-", "_")
            assert owned & declared or optional, f"{file.name} imports {module}, which {folder} does not declare"


def declared_by(described):
    extras = described.get("optional-dependencies", {}).values()
    lines = [*described["dependencies"], *(line for extra in extras for line in extra)]
    # What pydantic-settings and Starlette bring is theirs to promise.
    return {Requirement(line).name.lower().replace("_", "-") for line in lines} | {"pydantic", "pydantic-core", "anyio"}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        for name in names:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top != "junctor":
                yield top


def test_litellm_is_imported_only_by_its_plugin():
    files = [*(ROOT / "core" / "src").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
    guilty = {file.relative_to(ROOT).parts[1] for file in files if "litellm" in set(imported(file))}
    assert guilty <= {"litellm"}
