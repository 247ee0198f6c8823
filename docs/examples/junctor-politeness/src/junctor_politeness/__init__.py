from junctor import PluginSettings, Refused, hookimpl


class PolitenessSettings(PluginSettings):
    word: str = "please"


class Politeness:
    Settings = PolitenessSettings

    def __init__(self, settings):
        self.word = settings.word
        self.polite = 0

    @hookimpl
    async def pre_route(self, exchange):
        if self.word not in str(exchange.request.body).lower():
            raise Refused(f"say '{self.word}'", code="impolite")
        self.polite += 1
        exchange.headers["x-polite-requests"] = str(self.polite)
