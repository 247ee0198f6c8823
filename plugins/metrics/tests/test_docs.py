"""The documentation and the files for Prometheus and Grafana name what there is, and all of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from junctor.testing import require
from junctor_metrics import Metrics
from junctor_metrics.catalogue import METRICS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/metrics.md").read_text()
RULES = ROOT / "docs/prometheus-rules.yaml"
DASHBOARD = ROOT / "docs/grafana-dashboard.json"
README = (Path(__file__).parents[1] / "README.md").read_text()
SAMPLES = {sample for metric in METRICS for sample in metric.samples}


def test_the_page_lists_every_metric_as_it_is():
    rows = re.findall(r"^\| `(junctor_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    listed = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows]
    assert listed == [(metric.name, metric.kind, metric.labels, metric.help) for metric in METRICS]


def test_promtool_takes_the_rules():
    promtool = shutil.which("promtool")
    require(promtool, "promtool is not installed (apt install prometheus)")
    checked = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_rules_name_only_metrics_that_there_are():
    named = set(re.findall(r"\bjunctor_\w+", RULES.read_text()))
    assert named
    assert named <= SAMPLES


def test_the_dashboard_names_all_metrics_and_no_others():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = " ".join(target["expr"] for panel in panels for target in panel.get("targets", ()))
    named = set(re.findall(r"\bjunctor_\w+", expressions))
    assert named <= SAMPLES
    assert [m.name for m in METRICS if not named & set(m.samples)] == []


def test_the_panels_of_the_dashboard_do_not_overlap():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_promtool_takes_the_expressions_of_the_dashboard(tmp_path):
    promtool = shutil.which("promtool")
    require(promtool, "promtool is not installed (apt install prometheus)")
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    rules = [
        {"record": f"panel:{n}", "expr": expression.replace("$__rate_interval", "5m")}
        for n, expression in enumerate(found)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    checked = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("text", [PAGE, README], ids=["page", "readme"])
def test_the_examples_are_valid(text):
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    sections = [entry["metrics"] for block in blocks for entry in block.get("plugins", ())]
    assert sections
    for section in sections:
        section.get("alerts", {}).pop("webhook", None)  # its secret is a variable here
        Metrics.Settings.model_validate(section)


def test_the_readme_names_every_setting():
    for name in Metrics.Settings.model_fields.keys() - {"timeout", "on_failure", "host"}:
        assert f"{name}:" in README
