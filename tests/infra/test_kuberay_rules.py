"""Every rule of the operator that we ported refuses what it is there for, and nothing else."""

import copy

import pytest

from tests.infra.kuberay_rules import CLUSTER_RULES, JOB_RULES, findings

POD = {"spec": {"containers": [{"name": "ray", "image": "unclip-pipeline:0.1.0"}]}}
CLUSTER = {
    "rayVersion": "2.60.0",
    "authOptions": {"mode": "token"},
    "headGroupSpec": {"rayStartParams": {}, "template": POD},
    "workerGroupSpecs": [
        {"groupName": "cpu", "minReplicas": 1, "maxReplicas": 2, "template": POD},
    ],
}
SCALED = {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}}
JOB = {
    "kind": "RayJob",
    "metadata": {"name": "demo"},
    "spec": {"entrypoint": "python -m jobs.run", "rayClusterSpec": CLUSTER},
}
HEAD = "rayClusterSpec.headGroupSpec"
POD_OF_HEAD = f"{HEAD}.template.spec"
WORKER = "rayClusterSpec.workerGroupSpecs.0"
SUCCEEDED = {"jobStatus": "SUCCEEDED", "ttlSeconds": 5}
SELECTOR = {"clusterSelector": {"ray.io/cluster": "unclip"}}


def changed(changes):
    """The job with values at dotted places of its spec; None takes a key away."""
    job = copy.deepcopy(JOB)
    for place, value in changes.items():
        *path, last = place.split(".") if not place.startswith("/") else place[1:].split("/")
        at = job if place.startswith("/") else job["spec"]
        for name in path:
            at = at[int(name)] if name.isdigit() else at.setdefault(name, {})
        if value is None:
            del at[last]
        else:
            at[last] = copy.deepcopy(value)
    return job


def rules(*policies_and_conditions):
    return {"deletionRules": [{"policy": p, "condition": c} for p, c in policies_and_conditions]}


def env(name, value="1"):
    return {f"{POD_OF_HEAD}.containers.0.env": [{"name": name, "value": value}]}


def scaled(**more):
    return {f"rayClusterSpec.{name}": value for name, value in SCALED.items()} | more


REDIS = {"rayClusterSpec.gcsFaultToleranceOptions": {"redisAddress": "redis:6379"}}
WRONG = {
    "name_is_a_label": [{"/metadata/name": "d" * 48}, {"/metadata/name": "2-demo"}],
    "groups_have_containers": [{f"{POD_OF_HEAD}.containers": []}],
    "resources_are_said_once": [
        {f"{HEAD}.rayStartParams": {"num-cpus": "4"}, f"{HEAD}.resources": {"CPU": "4"}}
    ],
    "labels_are_labels": [
        {f"{HEAD}.rayStartParams": {"labels": "a=b"}},
        {f"{WORKER}.labels": {"pool": "not a label"}},
    ],
    "replicas_are_a_range": [
        {f"{WORKER}.minReplicas": 3},
        {f"{WORKER}.minReplicas": -1},
        {f"{WORKER}.maxReplicas": None},
    ],
    "idle_and_priority_need_v2": [
        {f"{WORKER}.idleTimeoutSeconds": 60},
        {f"{WORKER}.priority": 2},
        scaled() | {f"{WORKER}.idleTimeoutSeconds": -1},
    ],
    "suspended_groups_need_no_autoscaler": [scaled() | {f"{WORKER}.suspend": True}],
    "autoscaler_is_said_once": [
        env("RAY_enable_autoscaler_v2"),
        scaled() | env("RAY_enable_autoscaler_v2"),
        {"rayClusterSpec.autoscalerOptions": {"idleTimeoutSeconds": -1}},
        {
            "rayClusterSpec.autoscalerOptions": {
                "env": [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD"}]
            }
        },
    ],
    "v2_restarts_nothing": [scaled() | {f"{POD_OF_HEAD}.restartPolicy": "Always"}],
    "head_state_is_said_once": [
        env("RAY_REDIS_ADDRESS"),
        REDIS | env("RAY_REDIS_ADDRESS"),
        REDIS | env("REDIS_PASSWORD"),
        REDIS | {f"{HEAD}.rayStartParams": {"redis-password": "x"}},
        REDIS | {"/metadata/annotations": {"ray.io/ft-enabled": "true"}},
        {"rayClusterSpec.gcsFaultToleranceOptions": {"storage": {"size": "1Gi"}}},
        env("REDIS_USERNAME"),
    ],
    "tokens_need_a_version": [
        {"rayClusterSpec.rayVersion": None},
        {"rayClusterSpec.rayVersion": "2.51.1"},
        {"rayClusterSpec.authOptions": {"enableK8sTokenAuth": True}},
    ],
    "gates_are_closed": [{"rayClusterSpec.networkPolicy": {"mode": "DenyAll"}}],
    "upgrades_are_of_clusters": [{"rayClusterSpec.upgradeStrategy": {"type": "Recreate"}}],
    "a_cluster_is_named_or_made": [
        {"rayClusterSpec": None},
        {"clusterSelector": {"cluster": "unclip"}},
        SELECTOR | {"submissionMode": "SidecarMode"},
        SELECTOR | {"backoffLimit": 1},
        SELECTOR | {"suspend": True, "shutdownAfterJobFinishes": True},
    ],
    "suspended_jobs_shut_down": [{"suspend": True}],
    "deletion_is_said_once": [
        {"ttlSecondsAfterFinished": 60},
        {"ttlSecondsAfterFinished": -1},
        {
            "shutdownAfterJobFinishes": True,
            "deletionStrategy": rules(("DeleteCluster", SUCCEEDED)),
        },
        {"deletionStrategy": {}},
        {
            "deletionStrategy": rules(("DeleteCluster", SUCCEEDED))
            | {"onSuccess": {"policy": "DeleteSelf"}}
        },
    ],
    "deletion_goes_from_small_to_large": [
        {"deletionStrategy": rules(("DeleteSelf", {"jobStatus": "FAILED", "ttlSeconds": -1}))},
        {"deletionStrategy": rules(("DeleteSelf", {"ttlSeconds": 1}))},
        scaled() | {"deletionStrategy": rules(("DeleteWorkers", SUCCEEDED))},
        SELECTOR | {"deletionStrategy": rules(("DeleteCluster", SUCCEEDED))},
        {"deletionStrategy": rules(("DeleteSelf", SUCCEEDED), ("DeleteSelf", SUCCEEDED))},
        {
            "deletionStrategy": rules(
                ("DeleteCluster", SUCCEEDED), ("DeleteSelf", {**SUCCEEDED, "ttlSeconds": 1})
            )
        },
    ],
    "modes_fit": [
        {"submissionMode": "SideCar"},
        {"submissionMode": "InteractiveMode", "backoffLimit": 1},
        {"submissionMode": "SidecarMode", "submitterConfig": {"backoffLimit": 1}},
        {"submissionMode": "SidecarMode", f"{POD_OF_HEAD}.restartPolicy": "Always"},
    ],
    "numbers_are_positive": [{"activeDeadlineSeconds": 0}, {"backoffLimit": -1}],
    "the_environment_is_yaml": [{"runtimeEnvYAML": "env_vars: {a"}],
    "kueue_takes_what_shuts_down": [
        {"/metadata/labels": {"kueue.x-k8s.io/queue-name": "unclip"}},
        scaled()
        | {
            "/metadata/labels": {"kueue.x-k8s.io/queue-name": "unclip"},
            "shutdownAfterJobFinishes": True,
        },
    ],
}
RIGHT = [
    {},
    scaled() | {f"{WORKER}.idleTimeoutSeconds": 60, f"{WORKER}.maxReplicas": None},
    REDIS,
    {"suspend": True, "shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 60},
    {"deletionStrategy": rules(("DeleteCluster", SUCCEEDED), ("DeleteSelf", SUCCEEDED))},
    SELECTOR | {"rayClusterSpec": None},
    {"submissionMode": "SidecarMode", "backoffLimit": 2},
]


def test_every_rule_has_its_seeded_mistakes():
    assert set(WRONG) == {rule.__name__ for rule in (*CLUSTER_RULES, *JOB_RULES)}


@pytest.mark.parametrize("rule", [*CLUSTER_RULES, *JOB_RULES], ids=lambda rule: rule.__name__)
def test_a_rule_finds_its_mistakes_and_the_whole_reports_them(rule):
    assert list(rule(copy.deepcopy(JOB))) == []
    for changes in WRONG[rule.__name__]:
        job = changed(changes)
        found = list(rule(job))
        assert found, changes
        assert {f"RayJob {job['metadata']['name']}: {each}" for each in found} <= set(findings(job))


@pytest.mark.parametrize("changes", RIGHT, ids=str)
def test_what_the_operator_takes_is_taken(changes):
    assert findings(changed(changes)) == []
