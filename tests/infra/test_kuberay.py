"""The overlays of infra/kuberay, rendered, against every check that needs no cluster.

What each check is for is shown by mistakes that only it finds.
"""

import json
import re
import runpy
import shlex
import sys
from itertools import pairwise

import kubernetes_validate
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from yamllint import linter
from yamllint.config import YamlLintConfig

from pipeline.config import load_run
from pipeline.run_file import RunFile
from tests.infra import crds, kuberay_rules
from tests.infra.manifests import (
    INFRA,
    OVERLAYS,
    ROOT,
    cluster_spec,
    groups,
    needs_crds,
    needs_kubectl,
    of_kind,
    rendered,
)
from tests.infra.policy import POLICIES

KUBERNETES = "1.37"
STYLE = YamlLintConfig(
    """
extends: default
rules:
  line-length: disable
  document-start: disable
  braces: {max-spaces-inside: 1}
  comments: {min-spaces-from-content: 2}
"""
)
YAML_FILES = sorted([*INFRA.rglob("*.yaml"), *INFRA.rglob("*.yml")])
RAY_KINDS = ("RayCluster", "RayJob")
overlays = pytest.mark.parametrize("overlay", OVERLAYS)
kubernetes = pytest.mark.kubernetes


def style_of(text):
    return [f"{found.line}: {found.desc}" for found in linter.run(text, STYLE)]


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(INFRA)))
def test_a_file_is_in_style(path):
    assert style_of(path.read_text()) == []


def test_style_finds_mistakes():
    assert "1: duplication" in style_of("a: {b: 1, b: 2}\n")[0]
    assert style_of("a:\n   - b\n  - c\n")


def core_findings(objects):
    found = []
    for each in objects:
        if each["kind"] not in RAY_KINDS:
            try:
                kubernetes_validate.validate(each, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(f"{each['kind']} {each['metadata']['name']}: {error.message}")
    return found


@kubernetes
@needs_kubectl
@overlays
def test_the_overlays_pass_schemas_rules_and_policies(overlay):
    objects = rendered(overlay)
    rays = [each for each in objects if each["kind"] in RAY_KINDS]
    assert core_findings(objects) == []
    assert [found for each in rays for found in kuberay_rules.findings(each)] == []
    assert [found for policy in POLICIES for found in policy(objects)] == []


@kubernetes
@needs_kubectl
@needs_crds
@overlays
def test_the_overlays_pass_kuberays_own_definitions(overlay):
    rays = [each for each in rendered(overlay) if each["kind"] in RAY_KINDS]
    assert [found for each in rays for found in crds.findings(each)] == []


def put(value, place, objects):
    """A mistake at a dotted place below ``Kind name``."""
    head, *path = place.split("/")
    kind, name = head.split(" ")
    (at,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    for step in path[:-1]:
        at = at[int(step)] if isinstance(at, list) else at.setdefault(step, {})
    last = int(path[-1]) if isinstance(at, list) else path[-1]
    if value is None:
        del at[last]
    else:
        at[last] = value


@kubernetes
@needs_kubectl
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("StatefulSet unclip-redis/spec/template/spec/containers/0/commands", ["sh"]),
        ("StatefulSet unclip-redis/spec/replicas", "one"),
        ("NetworkPolicy ray/spec/ingres", []),
        ("PodDisruptionBudget unclip-heads/spec/selector/matchLabels", ["head"]),
        ("PersistentVolumeClaim unclip-runs/spec/accessMode", "ReadWriteMany"),
        ("Service unclip-redis/spec/ports/0/port", "redis"),
        ("Namespace unclip/metadata/label", {}),
    ],
)
def test_kubernetes_schemas_find_mistakes(place, value):
    objects = rendered("demo")
    put(value, place, objects)
    assert len(core_findings(objects)) == 1


HEAD = "rayClusterSpec/headGroupSpec/template/spec/containers/0"
RULE = "spec/deletionStrategy/deletionRules/0/condition"


@kubernetes
@needs_kubectl
@needs_crds
@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("RayJob demo-clip/spec/entrypont", "python", "entrypont"),
        ("RayJob demo-clip/spec/backoffLimit", "three", "three"),
        (f"RayJob demo-clip/spec/{HEAD}/resource", {}, "resource"),
        (f"RayJob demo-clip/spec/{HEAD}/env/0/value", 1, "not of type"),
        ("RayJob demo-clip/spec/rayClusterSpec/authOptions/mode", "tokens", "tokens"),
        # In CEL, rules that read two fields.
        (f"RayJob demo-clip/{RULE}/jobDeploymentStatus", "Failed", "cannot be used together"),
        (f"RayJob demo-clip/{RULE}/jobStatus", None, "requires either"),
        ("RayJob demo-clip/spec/deletionStrategy", {}, "requires either BOTH"),
        ("RayJob demo-clip/spec/managedBy", "me", "managedBy"),
        ("RayCluster unclip/spec/autoscalerOptions/version", "v3", "v3"),
    ],
)
def test_kuberays_definitions_find_mistakes(place, value, told):
    objects = rendered("demo")
    put(value, place, objects)
    name = place.split("/")[0].split()[1]
    (changed,) = [o for o in objects if o["metadata"]["name"] == name and o["kind"] in RAY_KINDS]
    found = crds.findings(changed)
    assert found
    assert all(told in each for each in found)


POD = "RayCluster unclip/spec/workerGroupSpecs/0/template/spec"
MLFLOW = "Deployment unclip-mlflow/spec/template/spec/containers/0"
WRONG = {
    "images_are_pinned": [
        (f"{POD}/containers/0/image", "unclip-pipeline:latest"),
        (f"{POD}/containers/0/image", "unclip-pipeline:9.9.9"),
    ],
    "ray_is_the_locked_one": [("RayCluster unclip/spec/rayVersion", "2.52.0")],
    "memory_is_bounded": [
        (f"{POD}/containers/0/resources/limits", {}),
        (f"{POD}/containers/0/resources/requests/memory", "1Gi"),
        ("RayCluster unclip/spec/autoscalerOptions/resources/limits", None),
    ],
    "nobody_is_root": [
        (f"{POD}/securityContext/runAsNonRoot", False),
        (f"{POD}/containers/0/securityContext/readOnlyRootFilesystem", False),
    ],
    "tokens_of_kubernetes_stay_away": [(f"{POD}/automountServiceAccountToken", True)],
    "ray_asks_for_its_token": [("RayJob paper-clip/spec/rayClusterSpec/authOptions", {})],
    "secrets_are_named_never_written": [
        (f"{POD}/containers/0/env/1", {"name": "MLFLOW_TRACKING_PASSWORD", "value": "a"}),
        ("RayCluster unclip/spec/authOptions/secretName", "mine"),
        (f"{POD}/containers/0/env/2/valueFrom/secretKeyRef/key", "user"),
    ],
    "nothing_is_open": [
        ("Service unclip-redis/spec/type", "LoadBalancer"),
        ("NetworkPolicy deny-all/spec/policyTypes", ["Ingress"]),
        ("NetworkPolicy autoscaler/spec/egress/0/to/0/ipBlock", {"cidr": "0.0.0.0/0"}),
    ],
    "budgets_can_be_kept": [("PodDisruptionBudget unclip-heads/spec/minAvailable", "50%")],
    "shared_memory_is_there": [
        (f"{POD}/volumes/2/emptyDir", {}),
        ("RayCluster unclip/spec/workerGroupSpecs/0/rayStartParams", {}),
    ],
    "pods_say_where_they_run": [(f"{POD}/nodeSelector", {})],
    "names_are_found": [
        (f"{POD}/volumes/0/persistentVolumeClaim/claimName", "runs"),
        (f"{POD}/containers/0/volumeMounts/0/name", "folder"),
    ],
    "services_are_answered": [
        ("Service unclip-mlflow/spec/ports/0/port", 5001),
        ("Service unclip-mlflow/spec/selector", {"app": "mlflow"}),
        (f"{MLFLOW}/ports/0/containerPort", 5001),
    ],
    "addresses_are_services": [
        ("RayCluster unclip/spec/gcsFaultToleranceOptions/redisAddress", "unclip-store:6379"),
        ("RayCluster unclip/spec/gcsFaultToleranceOptions/redisAddress", "unclip-redis:6380"),
    ],
    "probes_ask_ports_that_are_there": [(f"{MLFLOW}/readinessProbe/httpGet/port", "htpp")],
    "selectors_choose_pods": [
        ("Deployment unclip-mlflow/spec/template/metadata/labels", {"app": "mlflow"}),
        ("NetworkPolicy redis/spec/podSelector/matchLabels", {"app": "redis"}),
        ("NetworkPolicy ray/spec/egress/0/to/2/podSelector/matchLabels", {"app": "mlflow"}),
        ("NetworkPolicy redis/spec/ingress/0/ports/0/port", 6380),
        ("PodDisruptionBudget unclip-redis/spec/selector/matchLabels", {"app": "redis"}),
    ],
    "no_policy_lets_all_in_or_out": [
        ("NetworkPolicy ray/spec/ingress", [{}]),
        ("NetworkPolicy ray/spec/egress", [{}]),
        ("NetworkPolicy ray/spec/ingress/1/from/0", {"namespaceSelector": {}}),
        ("NetworkPolicy ray/spec/ingress/0/from/0/podSelector", {}),
        ("NetworkPolicy ray/spec/egress/2/ports", None),
    ],
    "folders_are_mounted": [
        ("PersistentVolumeClaim unclip-runs/spec/accessModes", ["ReadWriteOnce"]),
        (f"RayJob paper-clip/spec/{HEAD}/volumeMounts/0/mountPath", "/run"),
    ],
    "nodes_share_their_folders": [
        (f"{POD}/containers/0/volumeMounts/0/mountPath", "/run"),
        (f"{POD}/containers/0/volumeMounts/1/subPath", "inputs"),
    ],
    "homes_can_be_written": [
        (f"{POD}/containers/0/env/0/name", "HOEM"),
        (f"{POD}/containers/0/env/0/value", "/root"),
    ],
    "queues_are_those_of_the_readme": [
        ("RayJob paper-clip/metadata/labels", {"kueue.x-k8s.io/queue-name": "unclips"}),
    ],
    "the_host_stays_away": [
        (f"{POD}/hostNetwork", True),
        (f"{POD}/volumes/1", {"name": "scratch", "hostPath": {"path": "/tmp"}}),
        (f"{POD}/securityContext/runAsUser", 0),
        ("RayCluster unclip/spec/headGroupSpec/serviceType", "LoadBalancer"),
    ],
}


@kubernetes
@needs_kubectl
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_a_policy_finds_its_mistakes(policy):
    for place, value in WRONG[policy.__name__]:
        objects = rendered("paper")
        put(value, place, objects)
        assert list(policy(objects)), place


def options_of(job):
    words = shlex.split(job["spec"]["entrypoint"])
    sets = [after for word, after in pairwise(words) if word == "--set"]
    stage = words[words.index("--stage") + 1] if "--stage" in words else None
    return words, words[words.index("--config") + 1], sets, stage


@pytest.fixture
def inputs(tmp_path):
    """What the paper's run file reads before anything runs, small."""
    pairs, queries, prompts = (tmp_path / name for name in ("p.parquet", "q.parquet", "p.txt"))
    pq.write_table(pa.table({"url": ["http://a.example/1.jpg"], "caption": ["a red cat"]}), pairs)
    pq.write_table(pa.table({"query": ["cat"]}), queries)
    prompts.write_text("a red cat\n")
    return {
        "demo": [],
        "paper": [
            f"candidates.path={pairs}",
            f"queries.sources.0.path={queries}",
            f"generate.prompts.path={prompts}",
        ],
    }


@kubernetes
@needs_kubectl
@overlays
def test_every_entry_point_answers_a_dry_run(overlay, inputs, tmp_path, monkeypatch, capsys):
    """In the folder where jobs start, with its real options."""
    monkeypatch.chdir(ROOT)
    stages = set()
    for job in of_kind(rendered(overlay), "RayJob"):
        words, config, sets, stage = options_of(job)
        assert words[:2] == ["python", "-m"]
        assert f"output_dir=/runs/{overlay}" in sets
        more = [*inputs[overlay], f"output_dir={tmp_path / 'run'}"]
        if words[2] == "jobs.preflight":  # a live one: test_preflight.py
            load_run(RunFile, config, [*sets, *inputs[overlay]])
            continue
        arguments = [*words[3:], "--dry-run", *(o for value in more for o in ("--set", value))]
        monkeypatch.setattr(sys, "argv", [words[2], *arguments])
        monkeypatch.delitem(sys.modules, words[2], raising=False)  # where another test imported it
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(words[2], run_name="__main__")
        told = capsys.readouterr()
        assert ended.value.code == 0, told.err
        assert job["metadata"]["labels"]["stage"] in (
            stage,
            words[2].split(".")[1],
            "balance",
            "all",
        )
        stages.add(job["metadata"]["labels"]["stage"])
    run = load_run(RunFile, config, inputs[overlay])
    wanted = {"queries", "balance", "curate", "embed", "score", "select", "generate", "evaluate"}
    assert stages - {"all"} == {*wanted, *run.model_stages()}
    assert not (tmp_path / "run").exists()


def offered(job):
    """CPUs and GPUs of a job's cluster."""
    spec, found = cluster_spec(job), {"cpu": 0, "gpu": 0}
    for group in groups(job)[1:]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"], "a gang"
        needs = group["template"]["spec"]["containers"][0]["resources"]["requests"]
        found["cpu"] += group["replicas"] * int(needs["cpu"])
        found["gpu"] += group["replicas"] * int(needs.get("nvidia.com/gpu", 0))
    found["cpu"] += int(spec["headGroupSpec"]["rayStartParams"]["num-cpus"])
    return found


def wanted(run, stage):
    """CPUs and GPUs that a stage's settings ask for at once."""
    trained = dict(run.training_stages())
    if stage in trained:
        how = trained[stage].execution
        workers = max(1, how.num_workers)
        per_worker = how.threads + (how.decoders if how.decode_on == "worker" else 0)
        return {"cpu": workers * per_worker, "gpu": workers * how.gpus_per_worker}
    if stage == "preflight":
        stage = "decoder" if run.name == "paper" else "embed"
        return wanted(run, stage)
    if stage in ("embed", "generate"):
        how = getattr(run, stage).execution
        each = how.cpus_per_actor if stage == "embed" else how.threads
        return {"cpu": how.num_actors * each, "gpu": how.num_actors * how.gpus_per_actor}
    return {"cpu": 1, "gpu": 0}


@kubernetes
@needs_kubectl
@overlays
def test_every_jobs_cluster_holds_what_its_stage_asks_for(overlay, inputs):
    jobs = of_kind(rendered(overlay), "RayJob")
    _, config, sets, _ = options_of(jobs[0])
    run = load_run(RunFile, config, [*sets, *inputs[overlay]])
    for job in jobs:
        has, asks = offered(job), wanted(run, job["metadata"]["labels"]["stage"])
        assert asks["cpu"] <= has["cpu"], job["metadata"]["name"]
        assert asks["gpu"] <= has["gpu"], job["metadata"]["name"]
        assert not (asks["gpu"] == 0 and has["gpu"]), "GPUs that nobody uses"


@kubernetes
@needs_kubectl
def test_a_run_on_several_nodes_names_a_tracking_server():
    for job in of_kind(rendered("paper"), "RayJob"):
        assert re.search(r"execution\.tracking\.uri=http://unclip-mlflow:5000", json.dumps(job))
