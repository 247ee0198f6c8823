"""Several workers: whichever is asked gives the sum of all, and it never goes down."""

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from junctor.testing import serving
from junctor_metrics.counts import Registry, load
from junctor_metrics.share import Share, folder_of

MANY = 40


def registry(**counts):
    made = Registry(max_values=10, max_series=10, known={})
    for name, value in counts.items():
        metric = f"junctor_{name}"
        made[metric][("a",) * len(made[metric].metric.labels)][0] += value
    return made


@pytest.fixture
def server(tmp_path, redis_url, prefix):
    """A real gateway with two workers."""
    alerts = {"rules": [{"when": "errors", "min_requests": MANY}], "every": "100ms"}
    tree = {
        "server": {"workers": 2},
        "state": {"url": redis_url, "prefix": prefix},
        "models": [{"name": "test", "targets": [{"target": "openai/m", "base_url": "http://127.0.0.1:9/v1"}]}],
        "plugins": [{"metrics": {"interval": "100ms", "directory": str(tmp_path), "alerts": alerts}}, "relay"],
    }
    with serving(tree, tmp_path) as served:
        served.wait_for(r"(?s)ready on.*ready on")
        yield served


def ask(base):
    """A question on a connection of its own; how the provider, which is not there, is told of."""
    body = {"model": "test", "messages": [{"role": "user", "content": "hi"}]}
    request = urllib.request.Request(f"{base}/v1/chat/completions", json.dumps(body).encode())
    with pytest.raises(urllib.error.HTTPError) as found:
        urllib.request.urlopen(request, timeout=10)
    with found.value as answer:
        return answer.code


def wait(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def listed(base):
    """How many lists of models were counted, and the workers in the sum."""
    text = get(f"{base}/metrics")
    found = re.search(r'requests_total\{.*operation="models".*\} (\S+)', text)
    return float(found[1]) if found else 0.0, float(re.search(r"\njunctor_workers (\S+)", text)[1])


def test_a_scrape_of_any_worker_gives_the_sum_and_a_crash_loses_nothing(server, tmp_path):
    base = server.root
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(get, [f"{base}/v1/models"] * 60))
    wait(lambda: listed(base) == (60, 2), 5)
    assert {listed(base) for _ in range(20)} == {(60.0, 2.0)}
    files = [path for path in tmp_path.rglob("*.json") if path.parent != tmp_path and "-" in path.name]
    shares = [json.loads(path.read_text()).get("junctor_requests_total") for path in files]
    assert len([share for share in shares if share]) == 2, "both workers had a part"
    os.kill(int(files[0].name.split("-")[0]), signal.SIGKILL)
    server.wait_for(r"(?s)(ready on.*){3}")
    get(f"{base}/v1/models")
    wait(lambda: listed(base) == (61, 2), 5)


def test_the_share_of_errors_is_that_of_all_workers_and_one_of_them_tells(server, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, [server.root] * MANY)) == {502}
    server.wait_for(rf"alert 'errors per model 20%' firing: 100% of {MANY} requests of model 'test' failed")
    shares = [load(path.read_bytes()) for path in tmp_path.rglob("*-*.json")]
    counted = [sum(row[0] for row in share.get("junctor_requests_total", {}).values()) for share in shares]
    assert sum(counted) == MANY
    assert max(counted) < MANY, "no worker alone has seen as many as the rule asks for"
    time.sleep(0.5)
    assert server.log.count("firing") == 1


def test_counters_of_workers_that_ended_stay_and_their_gauges_go(tmp_path):
    folder = tmp_path / "shared"
    share = Share(folder)
    share.open()
    dead = registry(hedges_total=5, queue_length=7)
    (folder / "999999999-1.json").write_bytes(dead.snapshot()[1])
    assert [alive for alive, _ in share.others()] == [False]
    Share(folder).open()
    assert sorted(path.name for path in folder.glob("*.json")) == ["ended.json"]
    ((alive, series),) = share.others()
    assert not alive
    assert series["junctor_hedges_total"]["a",] == [5]
    assert "junctor_queue_length" not in series


def test_an_older_snapshot_never_takes_the_place_of_a_newer_one(tmp_path):
    share = Share(tmp_path / "shared")
    share.open()
    counts = registry(hedges_total=1)
    older = counts.snapshot()
    counts["junctor_hedges_total"]["a",][0] += 1
    share.write(*counts.snapshot())
    share.write(*older)
    (written,) = (tmp_path / "shared").glob("*.json")
    assert json.loads(written.read_text())["junctor_hedges_total"] == [[["a"], [2]]]


def test_what_a_server_left_behind_is_removed_by_the_next_one(tmp_path):
    left = tmp_path / f"junctor-metrics-{os.getuid()}-999999999-1"
    left.mkdir()
    (left / "1-1.json").write_text("{}")
    Share(folder_of(tmp_path, os.getpid())).open()
    assert not left.exists()


def test_a_folder_that_belongs_to_somebody_else_is_not_used(tmp_path, caplog):
    (tmp_path / "real").mkdir()
    (tmp_path / "shared").symlink_to(tmp_path / "real")
    Share(tmp_path / "shared").open()
    assert "belongs to somebody else" in caplog.text


def test_a_folder_that_cannot_be_written_is_told_once_and_hurts_nobody(tmp_path, caplog):
    share = Share(tmp_path / "not" / "there")
    share.open()
    for number in range(3):
        share.write(number + 1, b"%d" % number)
    assert share.others() == []
    assert caplog.text.count("cannot share their metrics") == 1
