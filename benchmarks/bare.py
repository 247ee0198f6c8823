"""The floor: Starlette as its documentation shows it, with the same server and HTTP client, relaying and nothing else.

python bare.py PROVIDER_PORT PORT
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import orjson
import uvicorn
from junctor.http import HTTPClient
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

HEADERS = (("content-type", "application/json"), ("authorization", "Bearer sk-provider"))


class Relay:
    def __init__(self, url: str) -> None:
        self.url = url
        self.client = HTTPClient()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        async with self.client:
            yield

    async def chat(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        body["model"] = "gpt-4o-mini"
        answer = await self.client.request("POST", self.url, headers=HEADERS, body=orjson.dumps(body), max_body=None)
        kind = answer.headers.get("content-type")
        if body.get("stream"):
            return StreamingResponse(answer, answer.status, media_type=kind)
        return Response(await answer.read(), answer.status, media_type=kind)


if __name__ == "__main__":
    relay = Relay(f"http://127.0.0.1:{sys.argv[1]}/v1/chat/completions")
    routes = [Route("/v1/chat/completions", relay.chat, methods=["POST"])]
    app = Starlette(routes=routes, lifespan=relay.lifespan)
    uvicorn.run(
        app, port=int(sys.argv[2]), http="httptools", loop="uvloop", ws="none", access_log=False, log_level="warning"
    )
