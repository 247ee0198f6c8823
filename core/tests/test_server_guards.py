"""Who may pass: headers sent twice, and the operator's paths."""

from junctor import hookimpl
from junctor.server import AdminRoute
from junctor.testing import FakeProvider, Recorder
from pydantic import SecretStr
from starlette.responses import PlainTextResponse

MODELS = 'models: [{name: test, targets: [{target: "fake/one"}]}]\n'
ADMIN = MODELS + "admin: {key: the-global-admin-key}\n"


class Paths:
    """One path with a key of its own, one without."""

    def __init__(self, key):
        self.key = SecretStr(key) if key else None

    @hookimpl
    def http_routes(self):
        async def show(request):
            return PlainTextResponse("secret")

        return [AdminRoute("/admin/own", show, key=self.key), AdminRoute("/admin/global", show)]


async def _status(g, path, key):
    return (await g.request("GET", path, headers={"authorization": f"Bearer {key}"})).status


async def test_a_path_with_a_key_of_its_own_takes_no_other(gateway):
    async with gateway(Paths("the-paths-own-key"), FakeProvider(), config=ADMIN) as g:
        assert await _status(g, "/admin/own", "the-paths-own-key") == 200
        assert await _status(g, "/admin/own", "the-global-admin-key") == 401
        assert await _status(g, "/admin/global", "the-global-admin-key") == 200


async def test_a_key_of_its_own_opens_a_path_where_there_is_no_global_one(gateway):
    async with gateway(Paths("the-paths-own-key"), FakeProvider(), config=MODELS) as g:
        assert await _status(g, "/admin/own", "the-paths-own-key") == 200
        assert await _status(g, "/admin/global", "the-paths-own-key") == 404


async def test_a_header_sent_twice_is_joined_so_that_neither_wins(gateway):
    recorder = Recorder()
    async with gateway(FakeProvider(), recorder) as g:
        await g.chat(headers={"authorization": ["Bearer a", "Bearer b"], "x-tag": "1"})
    assert recorder.last.request.headers["authorization"] == "Bearer a, Bearer b"
    assert recorder.last.request.headers["x-tag"] == "1"
