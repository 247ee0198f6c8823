from junctor import ClientDisconnected, ErrorKind, ProviderError, Refused, hookimpl
from junctor.testing import FakeProvider, Recorder


async def test_answers_a_plain_chat(gateway):
    async with gateway(FakeProvider("four")) as g:
        answer = await g.chat("2+2?")
    assert answer.status == 200
    assert answer.text == "four"
    assert answer.headers["x-junctor-target"] == "fake/one"


async def test_streams_and_ends_with_one_done(gateway):
    async with gateway(FakeProvider("one two three")) as g:
        answer = await g.chat(stream=True)
    assert answer.text == "one two three"
    assert answer.events.count("[DONE]") == 1
    assert len(answer.chunks) > 3
