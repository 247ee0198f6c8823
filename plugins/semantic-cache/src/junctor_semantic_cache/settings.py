"""The section `semantic_cache` of the YAML file."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (pydantic reads it)
from typing import Annotated, Any, Literal

from junctor import Duration, PluginSettings, Section
from pydantic import BeforeValidator, Field, SecretStr, model_validator

__all__ = ["NamespaceSettings", "SemanticCacheSettings", "Share", "StoreSettings", "VerifierSettings"]


def _share(value: object) -> object:
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            raise ValueError(f"{value!r} is not a share; write for example 0.01 or 1%") from None
    return value


Share = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]
"""A share between 0 and 1; in the file also `1%`."""

Mode = Literal["off", "shadow", "serve"]


class StoreSettings(Section):
    """Where vectors and answers are kept."""

    path: Annotated[Path | None, Field(description="Folder of the embedded Qdrant; default: in the cache folder.")] = (
        None
    )
    url: Annotated[str | None, Field(pattern=r"^https?://", description="A Qdrant server or cluster instead.")] = None
    api_key: Annotated[SecretStr | None, Field(description="The server's key, as `${QDRANT_API_KEY}`.")] = None
    collection: Annotated[str, Field(pattern=r"^[\w-]+$", description="Begins the collection's name.")] = "junctor"
    max_entries: Annotated[int, Field(ge=1, description="More are evicted, those of least value first.")] = 100_000
    timeout: Annotated[Duration, Field(description="Longest time for one call of the store.")] = 0.25

    @model_validator(mode="after")
    def _one_place(self) -> StoreSettings:
        if self.url is not None and self.path is not None:
            raise ValueError("give path or url, not both")
        return self


class VerifierSettings(Section):
    """Looks once more at a hit that is about to be served: a cross-encoder, or a model of the gateway."""

    onnx: Annotated[Path | None, Field(description="A cross-encoder's ONNX file, its tokenizer.json beside it.")] = None
    model: Annotated[str | None, Field(description="A model of this gateway that answers yes or no.")] = None
    threshold: Annotated[float, Field(ge=0, le=1, description="The cross-encoder's least score.")] = 0.5
    timeout: Annotated[Duration, Field(description="No answer by then is a miss.")] = 0.5

    @model_validator(mode="after")
    def _one_kind(self) -> VerifierSettings:
        if (self.onnx is None) == (self.model is None):
            raise ValueError("give onnx or model")
        return self


class NamespaceSettings(Section):
    """What differs for one namespace."""

    mode: Mode | None = None
    max_wrong: Share | None = None
    max_wrong_per_hit: Share | None = None
    verify: Share | None = None
    ttl: Duration | None = None


class SemanticCacheSettings(PluginSettings):
    """Answers a question that was answered in other words, within a stated share of wrong answers."""

    on_failure: Literal["open", "closed"] = "open"
    mode: Annotated[Mode, Field(description="`shadow` learns and reports what it would have served.")] = "serve"
    scope: Annotated[
        Literal["key", "team", "project", "global"], Field(description="Who shares entries; none cross it.")
    ] = "team"
    namespace: Annotated[
        Literal["model", "feature", "team", "project"], Field(description="What errors are counted and learned by.")
    ] = "model"
    namespace_header: Annotated[str | None, Field(description="A header that names the namespace instead.")] = None
    tenant_header: Annotated[str | None, Field(description="A header that separates entries further.")] = None
    template_header: Annotated[str | None, Field(description="A header with the prompt template's version.")] = None
    max_wrong: Annotated[Share, Field(description="Wrong answers, as a share of all requests of a namespace.")] = 0.01
    max_wrong_per_hit: Annotated[Share, Field(description="Wrong answers, as a share of those served.")] = 1.0
    verify: Annotated[Share, Field(description="Hits asked again in the background; more near the limit.")] = 0.02
    namespaces: Annotated[
        dict[str, NamespaceSettings],
        Field(default_factory=dict, description="Exceptions by namespace."),
    ]
    max_namespaces: Annotated[int, Field(ge=1, description="More share one namespace, `other`.")] = 1000
    judge: Annotated[
        str,
        Field(
            pattern=r"^(normalised|first_line|embedding|model:\S+)$",
            description="Do two answers say the same? `normalised`, `first_line`, `embedding` or `model:NAME`.",
        ),
    ] = "normalised"
    embedder: Annotated[
        str,
        Field(
            pattern=r"^(minilm|wordllama|fastembed:\S+|gateway:\S+)$",
            description="`minilm`, `wordllama`, `fastembed:MODEL`, or `gateway:MODEL`: one of this gateway.",
        ),
    ] = "minilm"
    verifier: VerifierSettings | None = None
    store: StoreSettings = StoreSettings()
    lookup_timeout: Annotated[Duration, Field(description="No result by then is a bypass.")] = 0.5
    ttl: Annotated[Duration, Field(description="Life of an entry.")] = 86400.0
    volatile_ttl: Annotated[Duration, Field(description="Life when the prompt asks for what changes; 0: not kept.")] = (
        300.0
    )
    min_similarity: Annotated[float, Field(ge=-1, le=1, description="Entries below are no candidates.")] = 0.5
    max_temperature: Annotated[float, Field(ge=0, description="Requests above are not answered or kept.")] = 1.0
    tool_calls: Annotated[bool, Field(description="Keep answers that call tools.")] = False
    max_answer: Annotated[int, Field(gt=0, description="Largest answer kept, in bytes.")] = 256 * 1024
    queue: Annotated[int, Field(ge=1, description="Answers waiting to be stored; more are dropped and counted.")] = 1000

    @model_validator(mode="before")
    @classmethod
    def _lower_headers(cls, data: Any) -> Any:
        if isinstance(data, dict):
            names = ("namespace_header", "tenant_header", "template_header")
            data = {k: v.lower() if k in names and isinstance(v, str) else v for k, v in data.items()}
        return data
