"""Read the YAML file: parse it safely, fill in the environment, validate it, and say everything that is wrong."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from junctor.errors import ConfigError
from junctor.exchange import Model, Target, Timeouts
from junctor.plugins import Section, read_sections
from junctor.prices import card
from junctor.problems import problems_of
from junctor.secrets import FromEnvironment, opened, secrets_in
from junctor.settings import ModelSettings, Settings, TargetSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Config", "default_file", "parse", "read"]

_MAX_SIZE = 4 * 1024 * 1024
_MAX_ALIASES = 1000
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Config:
    """The file as typed values. `problems` is what was wrong with it so far; `Gateway` adds its own and refuses all."""

    file: str
    settings: Settings
    sections: Sequence[Section]
    models: Mapping[str, Model]
    problems: Sequence[str] = ()

    @property
    def secrets(self) -> list[str]:
        """Every key and password that the file and the environment gave, the plugins' sections included."""
        return [*secrets_in(self.settings), *secrets_in([section.settings for section in self.sections])]


def default_file() -> str:
    """What is read when no file is named: `config.yaml` if it is there, else the example."""
    return "config.yaml" if Path("config.yaml").exists() else "config.example.yaml"


def read(file: str | Path) -> Config:
    """Read a file; raises `ConfigError` if it cannot be read as a configuration at all."""
    path = Path(file)
    try:
        if path.stat().st_size > _MAX_SIZE:
            raise ConfigError(f"{file}: is over {_MAX_SIZE} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(f"{file}: cannot be read: {reason}; name another file with `-c FILE`") from error
    return parse(text, file=str(file))


def parse(text: str, *, file: str = "config", environ: Mapping[str, str] | None = None) -> Config:
    """The same for a text. `environ` replaces the process's environment for `${NAME}`."""
    tree = _load_yaml(text, file)
    problems: list[str] = []
    tree = _filled_in(tree, os.environ if environ is None else environ, "", problems)
    settings = _settings(tree, problems)
    sections = read_sections(settings.plugins if settings else _entries(tree), problems)
    models = _models(settings, problems) if settings else {}
    problems = [f"{file}: {problem}" for problem in problems]
    if settings is None:
        raise ConfigError(problems)
    return Config(file, settings, sections, models, problems)


def _entries(tree: dict[str, Any]) -> list[Any]:
    entries = tree.get("plugins")
    return [e for e in entries if isinstance(e, (str, dict))] if isinstance(entries, list) else []


def _settings(tree: dict[str, Any], problems: list[str]) -> Settings | None:
    try:
        return Settings(**tree)
    except ValidationError as error:
        problems.extend(problems_of(error, Settings))
        return None


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that is given twice and a flood of aliases."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > _MAX_ALIASES:
                raise yaml.YAMLError(f"more than {_MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)):
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: a key must be a plain value")
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: the key '{key}' is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _load_yaml(text: str, file: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{file}: is nested too deep") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{file}: must be a mapping with the keys {', '.join(Settings.model_fields)}")
    return tree


def _filled_in(value: Any, environ: Mapping[str, str], path: str, problems: list[str]) -> Any:
    """The tree with every `${NAME}` replaced by the environment's value."""
    if isinstance(value, dict):
        return {key: _filled_in(child, environ, f"{path}.{key}", problems) for key, child in value.items()}
    if isinstance(value, list):
        return [_filled_in(child, environ, f"{path}[{index}]", problems) for index, child in enumerate(value)]
    match = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    name = match[1]
    if not environ.get(name):
        problems.append(f"{path.removeprefix('.')}: the environment variable {name} is not set; `export {name}=…`")
        return "unset-environment-variable"
    return FromEnvironment(environ[name])


def _models(settings: Settings, problems: list[str]) -> dict[str, Model]:
    base = settings.timeouts.over(Timeouts())
    models: dict[str, Model] = {}
    for index, model in enumerate(settings.models):
        if model.name in models:
            problems.append(f"models[{index}].name: '{model.name}' is given twice")
        timeouts = model.timeouts.over(base)
        models[model.name] = Model(model.name, tuple(_targets(model, timeouts)), timeouts)
    return models


def _targets(model: ModelSettings, timeouts: Timeouts) -> Iterator[Target]:
    for settings in model.targets:
        keys = {name: key.get_secret_value() for name, key in settings.api_keys.items()}
        single = settings.api_key.get_secret_value() if settings.api_key else None
        for key_id, key in keys.items() or [("", single)]:
            yield _target(settings, key_id, key, timeouts)


def _target(settings: TargetSettings, key_id: str, key: str | None, timeouts: Timeouts) -> Target:
    provider, model = settings.target.split("/", 1)
    known = card(provider, model)
    return Target(
        provider=provider,
        model=model,
        api_key=key,
        key_id=key_id,
        base_url=settings.base_url,
        wire=settings.wire,
        headers=opened(settings.headers),
        params=settings.params,
        weight=settings.weight,
        tags=frozenset(settings.tags),
        price=settings.price.price() if settings.price else known.price,
        context_window=settings.context_window or known.context_window,
        supports=known.supports if settings.supports is None else frozenset(settings.supports),
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        timeouts=settings.timeouts.over(timeouts),
    )
