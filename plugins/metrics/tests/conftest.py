"""A gateway with metrics, and a way to read what it shows."""

import pytest
from junctor_metrics import Metrics
from junctor_metrics.catalogue import METRICS
from prometheus_client.parser import text_string_to_metric_families

PRICED = {"input": 1, "output": 2}
MODELS = [
    {"name": "test", "targets": [{"target": "fake/one", "price": PRICED}, {"target": "fake/two", "price": PRICED}]},
    {"name": "free", "targets": [{"target": "fake/three"}]},
]


LABELS = {sample: metric.labels for metric in METRICS for sample in metric.samples}


class Shown(dict):
    """(Sample's name, labels in the catalogue's order) → value; of a histogram without the buckets."""

    def __init__(self, text):
        super().__init__()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if "le" not in sample.labels and sample.name in LABELS:
                    self[sample.name, *(sample.labels[label] for label in LABELS[sample.name])] = sample.value


@pytest.fixture
def metered(gateway):
    """`async with metered(plugin, …, settings={…}) as g`: metrics first, then the plugins."""

    def run(*plugins, settings=None, models=MODELS, config=""):
        return gateway((Metrics, settings or {}), *plugins, models=models, config=config)

    return run


@pytest.fixture
def scrape():
    """The figures of a running gateway."""

    async def get(g):
        answer = await g.request("GET", "/metrics")
        assert answer.status == 200
        return Shown(answer.body.decode())

    return get


@pytest.fixture
def shown():
    return Shown
