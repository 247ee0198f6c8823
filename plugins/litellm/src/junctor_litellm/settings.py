"""The plugin's section of the YAML file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from junctor import PluginSettings, Section
from pydantic import Field, SecretStr

__all__ = ["LiteLLMSettings", "ProviderSettings"]


class ProviderSettings(Section):
    """What a provider needs besides a key and an address. Only these names reach litellm, and only from this file."""

    api_version: Annotated[str | None, Field(description="Azure.")] = None
    azure_ad_token: Annotated[SecretStr | None, Field(description="Azure: a token in place of a key.")] = None
    organization: Annotated[str | None, Field(description="OpenAI and compatible: the organisation's id.")] = None
    aws_region_name: Annotated[str | None, Field(description="Bedrock, SageMaker.")] = None
    aws_access_key_id: Annotated[SecretStr | None, Field(description="Bedrock, SageMaker.")] = None
    aws_secret_access_key: Annotated[SecretStr | None, Field(description="Bedrock, SageMaker.")] = None
    aws_session_token: Annotated[SecretStr | None, Field(description="Bedrock, SageMaker.")] = None
    aws_profile_name: Annotated[str | None, Field(description="Bedrock: a profile of the AWS configuration.")] = None
    aws_role_name: Annotated[str | None, Field(description="Bedrock: the ARN of a role to take on.")] = None
    aws_session_name: Annotated[str | None, Field(description="Bedrock: the name of that session.")] = None
    vertex_project: Annotated[str | None, Field(description="Vertex AI.")] = None
    vertex_location: Annotated[str | None, Field(description="Vertex AI.")] = None
    vertex_credentials: Annotated[SecretStr | None, Field(description="Vertex AI: JSON, or the file's path.")] = None
    watsonx_project_id: Annotated[str | None, Field(description="watsonx.")] = None

    def arguments(self, *, secrets: bool) -> dict[str, Any]:
        """As litellm's keyword arguments; what is not given is absent. Without `secrets` the caller pays by itself."""
        names = {"watsonx_project_id": "project_id"}
        return {
            names.get(name, name): value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self
            if value is not None and (secrets or not _is_credential(name))
        }


def _is_credential(name: str) -> bool:
    return (name.startswith("aws_") and name != "aws_region_name") or name in ("azure_ad_token", "vertex_credentials")


class LiteLLMSettings(PluginSettings):
    """Providers' own settings, and what to do with parameters that a provider cannot honour."""

    providers: Annotated[
        dict[str, ProviderSettings],
        Field(default_factory=dict, description="By provider: `bedrock: {aws_region_name: eu-central-1}`."),
    ]
    unsupported: Annotated[
        Literal["refuse", "drop"],
        Field(description="A parameter of OpenAI's that the provider does not have: 400, or left out."),
    ] = "refuse"
