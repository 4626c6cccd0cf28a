"""Alerts fire when they should; every metric that they and the dashboards read is exported."""

import copy
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from pipeline import gauges
from pipeline.partitions import map_partitions
from pipeline.progress import Progress
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.training.following import MEASURES, NONFINITE
from tests.infra.manifests import INFRA

MONITORING = INFRA / "monitoring"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
GPU_METRICS = {"ray_node_gpus_utilization", "ray_node_gram_used"}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool: apt-get install prometheus"
)


def promtool(*arguments):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def written(folder, name, content):
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return str(path)


@needs_promtool
def test_promtool_accepts_the_scrape_files_and_no_wrong_one(tmp_path):
    scrape = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    good = promtool("check", "config", str(MONITORING / "prometheus.yml"))
    assert good.returncode == 0, good.stderr
    # Debian builds its promtool without Kubernetes' discovery: the rest of that file is checked.
    pods = yaml.safe_load((MONITORING / "prometheus-kubernetes.yml").read_text())
    (job,) = pods["scrape_configs"]
    assert job.pop("kubernetes_sd_configs")[0]["namespaces"] == {"names": ["unclip"]}
    found = promtool("check", "config", written(tmp_path, "pods.yml", pods))
    assert found.returncode == 0, found.stderr
    scrape["scrape_configs"][0]["scrape_intervall"] = "1s"
    assert promtool("check", "config", written(tmp_path, "wrong.yml", scrape)).returncode


@needs_promtool
def test_every_alert_fires_and_stays_silent_as_its_tests_say():
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    asked = [each for test in tests for each in test["alert_rule_test"]]
    for rule in RULES:
        mine = [each for each in asked if each["alertname"] == rule["alert"]]
        assert {bool(each.get("exp_alerts")) for each in mine} == {True, False}, rule["alert"]
    done = promtool("test", "rules", str(MONITORING / "alerts_test.yml"))
    assert done.returncode == 0, done.stderr


@needs_promtool
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_that_is_turned_round_fails_its_tests(rule, tmp_path):
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    for each in groups["groups"][0]["rules"]:
        if each["alert"] == rule["alert"]:
            each["expr"] = f"({each['expr']}) and on() vector(0) > 1"
    written(tmp_path, "alerts.yml", groups)
    shutil.copy(MONITORING / "alerts_test.yml", tmp_path)
    assert promtool("test", "rules", str(tmp_path / "alerts_test.yml")).returncode


def metrics_of(text):
    return set(re.findall(r"\bray_\w+", text))


def queries(path):
    dashboard = json.loads(path.read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [
        v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"
    ]
    return panels + variables


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path):
    dashboard = json.loads(path.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) >= 10
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(places) == len(set(places))
    assert all(x + w <= 24 for x, _, w, _ in places)
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${source}"


@needs_promtool
@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_parses(path, tmp_path):
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$session", ".+")}
        for number, query in enumerate(queries(path))
        if not query.startswith("label_values")
    ]
    groups = {"groups": [{"name": "panels", "rules": rules}]}
    done = promtool("check", "rules", written(tmp_path, "panels.yml", groups))
    assert done.returncode == 0, done.stdout + done.stderr
    broken = copy.deepcopy(groups)
    broken["groups"][0]["rules"][0]["expr"] += " by"
    assert promtool("check", "rules", written(tmp_path, "broken.yml", broken)).returncode


def notes_of(text):
    """Values that a query wants of the label ``note``."""
    return {each for found in re.findall(r'\bnote=~?"([^"]+)"', text) for each in found.split("|")}


def test_every_note_that_is_read_is_one_that_a_bar_gives():
    given = {"kept", "dropped", "loss", NONFINITE, *MEASURES}
    read = [*(each for path in DASHBOARDS for each in queries(path)), *(r["expr"] for r in RULES)]
    assert {note for each in read for note in notes_of(each)} == given
    assert notes_of('a{bar="b", note=~"kept|lost"}') == {"kept", "lost"}


def test_every_alert_has_something_to_do():
    text = (INFRA / "README.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|$", text, re.MULTILINE))
    for rule in RULES:
        assert len(told[rule["alert"]].split()) > 3


def scrape():
    import ray

    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        text = urllib.request.urlopen(address, timeout=10).read().decode()
    except OSError:
        return ""
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def work(row):
    time.sleep(0.5)
    return row


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_small_run_exports_every_metric_that_is_read_and_forgets_what_has_ended(monkeypatch):
    """Scrapes of a live Ray, as Prometheus does it."""
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "5000")  # 10 s by default
    prepare_environment()
    wanted = {name for path in DASHBOARDS for each in queries(path) for name in metrics_of(each)}
    wanted |= {name for rule in RULES for name in metrics_of(rule["expr"])}
    assert {f"ray_{name}" for name in (gauges.DONE, gauges.TOTAL, gauges.NOTE)} < wanted
    with ray_session(RayConfig(num_cpus=2)):
        with Progress().stage("crawl", total=9, unit="partitions") as bar:
            bar.advance(4, kept=3, dropped=1)
            found, seen, until = "", set(GPU_METRICS), time.monotonic() + 240
            while (wanted - seen or "ray_unclip_note" not in found) and time.monotonic() < until:
                list(map_partitions(work, [{"number": number} for number in range(4)]))
                found = scrape()
                seen |= metrics_of(found)
        assert wanted - seen == set()
        (line,) = [each for each in found.splitlines() if each.startswith("ray_unclip_done{")]
        assert 'bar="crawl"' in line
        assert line.endswith(" 4.0")
        assert re.search(r'ray_unclip_note\{.*note="dropped".* 1\.0', found)
        until = time.monotonic() + 60
        while "ray_unclip_done" in scrape() and time.monotonic() < until:
            time.sleep(1)
        assert "ray_unclip_done" not in scrape()


def test_gpu_metrics_are_rays():
    """No GPU here: Ray's own source names them."""
    import ray

    source = Path(ray.__file__).parent / "dashboard/modules/reporter/reporter_agent.py"
    for name in GPU_METRICS:
        assert f'"{name.removeprefix("ray_")}"' in source.read_text()
