"""The rules that KubeRay's operator holds beyond its schema, in Python.

After ``ray-operator/controllers/ray/utils/validation.go`` of KubeRay 1.7, as far as the fields are
of use here. The operator refuses an object after it was accepted by the API, so that nothing but
an event tells; these say it before.
"""

import re
from collections.abc import Callable, Iterator

import yaml
from packaging.version import InvalidVersion, Version

from tests.infra.manifests import Object, cluster_spec, groups

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
RESOURCE_PARAMS = {"num-cpus", "num-gpus", "memory", "resources"}
GATED = ("networkPolicy", "tlsOptions", "historyServerOptions")
MAX_LENGTH = {"RayCluster": 53, "RayJob": 47}

Rule = Callable[[Object], Iterator[str]]


def findings(each: Object) -> list[str]:
    """What the operator would refuse of a RayCluster or RayJob."""
    name = f"{each['kind']} {each['metadata']['name']}"
    rules = [*CLUSTER_RULES, *(JOB_RULES if each["kind"] == "RayJob" else ())]
    if each["kind"] == "RayJob" and "rayClusterSpec" not in each["spec"]:
        rules = [name_is_a_label, *JOB_RULES]
    return [f"{name}: {found}" for rule in rules for found in rule(each)]


def _head_env(each: Object) -> dict[str, str]:
    containers = cluster_spec(each)["headGroupSpec"]["template"]["spec"]["containers"][:1]
    return {env["name"]: env.get("value", "") for c in containers for env in c.get("env", [])}


def _workers(each: Object) -> list[Object]:
    return groups(each)[1:]


def _autoscaler_v2(each: Object) -> bool:
    return cluster_spec(each).get("autoscalerOptions", {}).get("version") == "v2"


def name_is_a_label(each: Object) -> Iterator[str]:
    name, longest = each["metadata"]["name"], MAX_LENGTH[each["kind"]]
    if len(name) > longest:
        yield f"the name has {len(name)} characters, at most {longest}"
    if not DNS_1035.fullmatch(name):
        yield f"the name {name} is no DNS-1035 label"


def groups_have_containers(each: Object) -> Iterator[str]:
    for group in groups(each):
        if not group["template"]["spec"].get("containers"):
            yield f"group {group.get('groupName', 'head')} has no container"


def resources_are_said_once(each: Object) -> Iterator[str]:
    for group in groups(each):
        if group.get("resources") and RESOURCE_PARAMS & set(group.get("rayStartParams", {})):
            yield f"group {group.get('groupName', 'head')}: resources and rayStartParams"


def labels_are_labels(each: Object) -> Iterator[str]:
    for group in groups(each):
        if "labels" in group.get("rayStartParams", {}):
            yield "rayStartParams.labels; use the field labels"
        for value in group.get("labels", {}).values():
            if len(value) > 63 or not LABEL_VALUE.fullmatch(value):
                yield f"{value} is no label value"


def replicas_are_a_range(each: Object) -> Iterator[str]:
    scaled = cluster_spec(each).get("enableInTreeAutoscaling", False)
    for group in _workers(each):
        name, least, most = group["groupName"], group.get("minReplicas"), group.get("maxReplicas")
        if None in (least, most):
            if not scaled:
                yield f"group {name} needs minReplicas and maxReplicas without an autoscaler"
        elif not 0 <= least <= most:
            yield f"group {name}: minReplicas {least}, maxReplicas {most}"


def idle_and_priority_need_v2(each: Object) -> Iterator[str]:
    enabled = _autoscaler_v2(each) or _head_env(each).get("RAY_enable_autoscaler_v2") in (
        "1",
        "true",
    )
    for group in _workers(each):
        if group.get("idleTimeoutSeconds", 0) < 0:
            yield f"group {group['groupName']}: negative idleTimeoutSeconds"
        if not enabled and ("idleTimeoutSeconds" in group or group.get("priority")):
            yield f"group {group['groupName']}: a timeout or priority without autoscaler v2"


def suspended_groups_need_no_autoscaler(each: Object) -> Iterator[str]:
    if cluster_spec(each).get("enableInTreeAutoscaling"):
        for group in _workers(each):
            if group.get("suspend"):
                yield f"group {group['groupName']} is suspended beside an autoscaler"


def autoscaler_is_said_once(each: Object) -> Iterator[str]:
    spec, env = cluster_spec(each), _head_env(each)
    scaled, switch = spec.get("enableInTreeAutoscaling", False), "RAY_enable_autoscaler_v2"
    if not scaled and env.get(switch) in ("1", "true"):
        yield f"{switch} without enableInTreeAutoscaling"
    options = spec.get("autoscalerOptions", {})
    if scaled and "version" in options and switch in env:
        yield f"autoscalerOptions.version and {switch}"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "negative autoscalerOptions.idleTimeoutSeconds"
    if any(e["name"] == "KUBERAY_GEN_AUTOSCALER_START_CMD" for e in options.get("env", [])):
        yield "autoscalerOptions.env sets KUBERAY_GEN_AUTOSCALER_START_CMD"


def v2_restarts_nothing(each: Object) -> Iterator[str]:
    scaled = cluster_spec(each).get("enableInTreeAutoscaling") and _autoscaler_v2(each)
    for group in groups(each) if scaled else []:
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"group {group.get('groupName', 'head')}: restartPolicy with autoscaler v2"


def head_state_is_said_once(each: Object) -> Iterator[str]:
    spec, env = cluster_spec(each), _head_env(each)
    options, params = spec.get("gcsFaultToleranceOptions"), spec["headGroupSpec"]["rayStartParams"]
    annotations = each["metadata"].get("annotations", {})
    if options is None:
        if "RAY_REDIS_ADDRESS" in env and annotations.get("ray.io/ft-enabled") != "true":
            yield "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
    else:
        for name in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
            if annotations.get(name):
                yield f"annotation {name} beside gcsFaultToleranceOptions"
        for name in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD"):
            if name in env:
                yield f"{name} beside gcsFaultToleranceOptions"
        if params.get("redis-password"):
            yield "redis-password beside gcsFaultToleranceOptions"
        if options.get("backend", "redis") == "redis" and "storage" in options:
            yield "gcsFaultToleranceOptions.storage is for the backend rocksdb"
    if params.get("redis-username") or "REDIS_USERNAME" in env:
        yield "a Redis user outside of gcsFaultToleranceOptions"


def tokens_need_a_version(each: Object) -> Iterator[str]:
    spec = cluster_spec(each)
    options = spec.get("authOptions", {})
    if options.get("mode") == "token":
        try:
            if Version(spec.get("rayVersion", "")) < Version("2.52.0"):
                yield f"tokens need ray 2.52, not {spec['rayVersion']}"
        except InvalidVersion:
            yield "tokens need a stated rayVersion"
        if options.get("enableK8sTokenAuth") and options.get("secretName"):
            yield "enableK8sTokenAuth beside secretName"
    elif options.get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth without mode token"
    if options.get("enableK8sTokenAuth") and each["kind"] == "RayJob":
        yield "a RayJob knows no enableK8sTokenAuth"


def gates_are_closed(each: Object) -> Iterator[str]:
    for name in GATED:
        if name in cluster_spec(each):
            yield f"{name} needs a feature gate that is closed by default"


def upgrades_are_of_clusters(each: Object) -> Iterator[str]:
    kind = cluster_spec(each).get("upgradeStrategy", {}).get("type")
    if kind is not None and (each["kind"] == "RayJob" or kind not in ("Recreate", "None")):
        yield f"upgradeStrategy.type {kind}"


CLUSTER_RULES: tuple[Rule, ...] = (
    name_is_a_label,
    groups_have_containers,
    resources_are_said_once,
    labels_are_labels,
    replicas_are_a_range,
    idle_and_priority_need_v2,
    suspended_groups_need_no_autoscaler,
    autoscaler_is_said_once,
    v2_restarts_nothing,
    head_state_is_said_once,
    tokens_need_a_version,
    gates_are_closed,
    upgrades_are_of_clusters,
)


def a_cluster_is_named_or_made(each: Object) -> Iterator[str]:
    spec = each["spec"]
    selector = spec.get("clusterSelector")
    if not selector and "rayClusterSpec" not in spec:
        yield "neither rayClusterSpec nor clusterSelector"
    if selector:
        if not selector.get("ray.io/cluster"):
            yield "clusterSelector names no ray.io/cluster"
        if spec.get("submissionMode") == "SidecarMode":
            yield "clusterSelector with SidecarMode"
        if spec.get("backoffLimit", 0) > 0:
            yield "clusterSelector with backoffLimit"
        if spec.get("suspend"):
            yield "clusterSelector with suspend"


def suspended_jobs_shut_down(each: Object) -> Iterator[str]:
    if each["spec"].get("suspend") and not each["spec"].get("shutdownAfterJobFinishes"):
        yield "suspend without shutdownAfterJobFinishes"


def deletion_is_said_once(each: Object) -> Iterator[str]:
    spec = each["spec"]
    shuts, ttl = spec.get("shutdownAfterJobFinishes"), spec.get("ttlSecondsAfterFinished", 0)
    if ttl < 0:
        yield "negative ttlSecondsAfterFinished"
    if ttl > 0 and not shuts:
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    strategy = spec.get("deletionStrategy")
    if strategy is None:
        return
    legacy = "onSuccess" in strategy or "onFailure" in strategy
    if strategy.get("deletionRules") and shuts:
        yield "deletionRules with shutdownAfterJobFinishes"
    if strategy.get("deletionRules") and legacy:
        yield "deletionRules with onSuccess or onFailure"
    if not strategy.get("deletionRules") and not legacy:
        yield "an empty deletionStrategy"


def deletion_goes_from_small_to_large(each: Object) -> Iterator[str]:
    spec = each["spec"]
    scaled = spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling")
    seen: dict[tuple[str, str], dict[str, int]] = {}
    for rule in spec.get("deletionStrategy", {}).get("deletionRules", []):
        policy, condition = rule["policy"], rule["condition"]
        states = [(k, v) for k, v in condition.items() if k in ("jobStatus", "jobDeploymentStatus")]
        if len(states) != 1 or condition.get("ttlSeconds", 0) < 0:
            yield f"rule {policy}: one status and a ttlSeconds that is not negative"
            continue
        if policy == "DeleteWorkers" and scaled:
            yield "DeleteWorkers with an autoscaler"
        if policy in ("DeleteWorkers", "DeleteCluster") and spec.get("clusterSelector"):
            yield f"{policy} with clusterSelector"
        times = seen.setdefault(states[0], {})
        if policy in times:
            yield f"{policy} twice for {states[0][1]}"
        times[policy] = condition.get("ttlSeconds", 0)
    for (_, state), times in seen.items():
        waits = [times[policy] for policy in DELETION_ORDER if policy in times]
        if waits != sorted(waits):
            yield f"{state}: {times} deletes the larger before the smaller"


def modes_fit(each: Object) -> Iterator[str]:
    spec = each["spec"]
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in SUBMISSION_MODES:  # the schema takes any text
        yield f"submissionMode {mode}"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "InteractiveMode with backoffLimit"
    if mode == "SidecarMode":
        for name in ("submitterPodTemplate", "submitterConfig"):
            if name in spec:
                yield f"SidecarMode with {name}"
        pod = spec.get("rayClusterSpec", {}).get("headGroupSpec", {}).get("template", {})
        if pod.get("spec", {}).get("restartPolicy", "Never") != "Never":
            yield "SidecarMode with restartPolicy"


def numbers_are_positive(each: Object) -> Iterator[str]:
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if each["spec"].get(name, 1) <= 0:
            yield f"{name} is not positive"
    if each["spec"].get("backoffLimit", 0) < 0:
        yield "negative backoffLimit"


def the_environment_is_yaml(each: Object) -> Iterator[str]:
    try:
        yaml.safe_load(each["spec"].get("runtimeEnvYAML", ""))
    except yaml.YAMLError:
        yield "runtimeEnvYAML is no YAML"


def kueue_takes_what_shuts_down(each: Object) -> Iterator[str]:
    """Kueue's own limits (its documentation, "Run RayJob"), for jobs with its label."""
    if "kueue.x-k8s.io/queue-name" in each["metadata"].get("labels", {}):
        spec = each["spec"]
        if not spec.get("shutdownAfterJobFinishes"):
            yield "Kueue needs shutdownAfterJobFinishes"
        if spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling"):
            yield "Kueue admits no autoscaler"
        if len(spec.get("rayClusterSpec", {}).get("workerGroupSpecs", [])) > 7:
            yield "Kueue admits 7 worker groups"


JOB_RULES: tuple[Rule, ...] = (
    a_cluster_is_named_or_made,
    suspended_jobs_shut_down,
    deletion_is_said_once,
    deletion_goes_from_small_to_large,
    modes_fit,
    numbers_are_positive,
    the_environment_is_yaml,
    kueue_takes_what_shuts_down,
)
