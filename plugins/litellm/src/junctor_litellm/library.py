"""litellm, imported late, in a thread, and kept quiet. Nothing else in this plugin imports it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from junctor_litellm.transport import Guard

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Library"]

# litellm reads these while it is imported. Without them it asks a server for prices, header lists and news.
_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_MODE": "PRODUCTION",  # no .env file of the working directory
}
_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")


class Library:
    """`await library.ready()` gives the module; the first caller starts the import, the others wait for the same."""

    def __init__(self) -> None:
        self._loading: asyncio.Task[Any] | None = None

    def warm_up(self) -> None:
        """Begin to import, in the background."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(_imported), name="import litellm")

    async def ready(self) -> Any:
        """The module `litellm`; takes seconds the first time, without blocking the event loop."""
        if self._loading is None:
            self.warm_up()
        assert self._loading is not None
        if self._loading.done():
            return self._loading.result()
        return await asyncio.shield(self._loading)

    async def aclose(self) -> None:
        """Wait for an import that is under way; a thread cannot be stopped."""
        if self._loading is not None:
            await asyncio.gather(self._loading, return_exceptions=True)


def _imported() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would stand on stderr
        import litellm  # takes seconds: see the module's docstring

        _build(litellm)
    _silence()
    _switch_off(litellm)
    return litellm


def _build(litellm: Any) -> None:
    """Have pydantic build what every answer is made of: it would at the first one, in the event loop."""
    from litellm.types.utils import Delta, EmbeddingResponse, ModelResponseStream, StreamingChoices

    for model in (litellm.ModelResponse, litellm.Message, Delta, StreamingChoices, ModelResponseStream):
        model.model_rebuild()
    chunk = ModelResponseStream(choices=[StreamingChoices(index=0, delta=Delta(content="", role="assistant"))])
    for made in (chunk, litellm.ModelResponse(), litellm.Message(), litellm.Usage(), EmbeddingResponse()):
        made.model_dump()


def _silence() -> None:
    """Its loggers write to stderr by handlers of their own, and may quote prompts and keys.

    What it imports later, for one provider, makes pydantic warn of the ways in which litellm declares its types.
    """
    for message in (".*using the `ReadOnly` qualifier", "Pydantic serializer warnings"):
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    # A call that is given up while litellm prepares it, in a thread, leaves the coroutine behind that nobody needs now.
    left = r"coroutine '[\w.]*\b(a|async_)(completion|streaming|embedding)\w*' was never awaited"
    warnings.filterwarnings("ignore", message=left, category=RuntimeWarning)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        logger.setLevel(logging.CRITICAL + 1)


def _switch_off(litellm: Any) -> None:
    """No cache, callbacks, retries, telemetry or changes to parameters; one way to the network, which is ours."""
    from litellm.caching.llm_caching_handler import LLMClientCache
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    litellm.suppress_debug_info = True
    litellm.set_verbose = False
    litellm.telemetry = False
    litellm.cache = None
    litellm.num_retries = None
    litellm.drop_params = False
    litellm.modify_params = False
    litellm.turn_off_message_logging = True
    litellm.disable_streaming_logging = True
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # a model may say the same word a hundred times
    litellm.disable_end_user_cost_tracking = True
    for callbacks in ("callbacks", "success_callback", "failure_callback", "input_callback"):
        setattr(litellm, callbacks, [])
        setattr(litellm, f"_async_{callbacks}", [])
    if isinstance(getattr(litellm.in_memory_llm_clients_cache, "handler", None), AsyncHTTPHandler):
        return  # another gateway of this process has been here
    handler = AsyncHTTPHandler(transport=Guard(), follow_redirects=False, timeout=None)
    litellm.module_level_aclient = handler
    litellm.aclient_session = handler.client
    litellm.in_memory_llm_clients_cache = _clients(LLMClientCache, handler)


def _clients(base: type[Any], handler: Any) -> Any:
    """litellm's cache of clients, with our one in the place of every asynchronous one."""

    class Clients(base):  # type: ignore[misc]
        def get_cache(self, key: str, **kwargs: Any) -> Any:
            return handler if str(key).startswith("async_httpx_client") else super().get_cache(key, **kwargs)

    made: Callable[[], Any] = Clients
    clients = made()
    clients.handler = handler
    return clients
