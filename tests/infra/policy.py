"""What we promise of our own manifests beyond what Kubernetes and KubeRay would take."""

import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterator

from tests.infra import wiring
from tests.infra.manifests import INFRA, ROOT, Object, cluster_spec, groups, of_kind, pods
from tests.infra.wiring import values

UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
METADATA = ipaddress.ip_address("169.254.169.254")
SECRETS = {  # and the keys that README.md tells to put in; of a bucket, variables of the AWS tools
    "unclip-ray-token": {"auth_token"},
    "unclip-redis": {"password"},
    "unclip-mlflow": {"username", "password", "session", "store", "artifacts"},
    "unclip-bucket": set(),
}

Policy = Callable[[list[Object]], Iterator[str]]


def quantity(text: str) -> int:
    """Bytes of ``8Gi``."""
    number, unit = re.fullmatch(r"(\d+)([KMGT]i)?", text).groups()
    return int(number) * UNITS.get(unit, 1)


def locked(package: str) -> str:
    text = (INFRA / "docker/requirements.lock").read_text()
    return re.search(rf"^{package}==(\S+)", text, re.MULTILINE).group(1)


def _containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for place, pod in pods(objects):
        for container in pod["containers"]:
            yield f"{place}: {container['name']}", container


def images_are_pinned(objects: list[Object]) -> Iterator[str]:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for place, container in _containers(objects):
        name, _, tag = container["image"].partition(":")
        if not re.match(r"\d+\.\d+\.\d+", tag):
            yield f"{place}: image {container['image']} names no full version"
        if name.endswith("unclip-pipeline") and tag != version:
            yield f"{place}: image {tag}, the project is {version}"


def ray_is_the_locked_one(objects: list[Object]) -> Iterator[str]:
    for each in [*of_kind(objects, "RayCluster"), *of_kind(objects, "RayJob")]:
        if cluster_spec(each).get("rayVersion") != locked("ray"):
            yield f"{each['metadata']['name']}: rayVersion is not {locked('ray')}"


def memory_is_bounded(objects: list[Object]) -> Iterator[str]:
    for place, container in _containers(objects):
        needs, most = (container.get("resources", {}).get(k, {}) for k in ("requests", "limits"))
        if "memory" not in needs or needs["memory"] != most.get("memory") or "cpu" not in needs:
            yield f"{place}: needs requests of cpu and memory, and a limit that is its memory"
        if needs.get("nvidia.com/gpu") != most.get("nvidia.com/gpu"):
            yield f"{place}: GPUs requested are not those of the limit"
    for options in values(objects, "autoscalerOptions"):
        if not options.get("resources", {}).get("limits", {}).get("memory"):
            yield "the autoscaler's memory is not limited"


def nobody_is_root(objects: list[Object]) -> Iterator[str]:
    for place, pod in pods(objects):
        context = pod.get("securityContext", {})
        if not context.get("runAsNonRoot") or "seccompProfile" not in context:
            yield f"{place}: runAsNonRoot and a seccompProfile are missing"
    for place, container in _containers(objects):
        context = container.get("securityContext", {})
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
        if not wanted.items() <= context.items() or context["capabilities"] != {"drop": ["ALL"]}:
            yield f"{place}: may do more than it needs"


def tokens_of_kubernetes_stay_away(objects: list[Object]) -> Iterator[str]:
    scaled = {
        f"{each['kind']} {each['metadata']['name']} head"
        for each in [*of_kind(objects, "RayCluster"), *of_kind(objects, "RayJob")]
        if cluster_spec(each).get("enableInTreeAutoscaling")
    }
    for place, pod in pods(objects):
        if pod.get("automountServiceAccountToken") is not False and place not in scaled:
            yield f"{place}: mounts a token of Kubernetes without an autoscaler"


def ray_asks_for_its_token(objects: list[Object]) -> Iterator[str]:
    for each in [*of_kind(objects, "RayCluster"), *of_kind(objects, "RayJob")]:
        if cluster_spec(each).get("authOptions", {}).get("mode") != "token":
            yield f"{each['metadata']['name']}: authOptions.mode is not token"


def secrets_are_named_never_written(objects: list[Object]) -> Iterator[str]:
    if of_kind(objects, "Secret"):
        yield "a Secret lies in the repository"
    for place, container in _containers(objects):
        for env in container.get("env", []):
            secret = re.search(r"TOKEN|PASSWORD|SECRET|_KEY|STORE$", env["name"])
            if secret and "value" in env:
                yield f"{place}: {env['name']} is written out"
    kinds = ("secretKeyRef", "secretRef", "authOptions")
    for reference in (each for kind in kinds for each in values(objects, kind)):
        name, key = reference.get("name", reference.get("secretName")), reference.get("key")
        if name not in SECRETS or (key and key not in SECRETS[name]):
            yield f"the Secret {name} with the key {key} is described nowhere"


def nothing_is_open(objects: list[Object]) -> Iterator[str]:
    if of_kind(objects, "Ingress"):
        yield "an Ingress"
    for service in of_kind(objects, "Service"):
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"Service {service['metadata']['name']} is open to the outside"
    policies = {
        each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "NetworkPolicy")
    }
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if policies.get("deny-all") != closed:
        yield "no NetworkPolicy denies what none allows"
    for name, spec in policies.items():
        for block in values(spec, "ipBlock"):
            holes = [ipaddress.ip_network(hole) for hole in block.get("except", [])]
            network = ipaddress.ip_network(block["cidr"])
            if METADATA in network and not any(METADATA in hole for hole in holes):
                yield f"NetworkPolicy {name} reaches the metadata address"


def budgets_can_be_kept(objects: list[Object]) -> Iterator[str]:
    """Pods of Ray have no scale: for them Kubernetes takes a whole ``minAvailable`` alone."""
    heads = 0
    for budget in of_kind(objects, "PodDisruptionBudget"):
        labels = budget["spec"]["selector"]["matchLabels"]
        if any(label.startswith("ray.io/") for label in labels):
            heads += labels == {"ray.io/node-type": "head"}
            if not isinstance(budget["spec"].get("minAvailable"), int):
                yield f"PodDisruptionBudget {budget['metadata']['name']} cannot be computed"
    if not heads:
        yield "no PodDisruptionBudget holds the heads"


def shared_memory_is_there(objects: list[Object]) -> Iterator[str]:
    for each in [*of_kind(objects, "RayCluster"), *of_kind(objects, "RayJob")]:
        for group in groups(each):
            name = f"{each['metadata']['name']} {group.get('groupName', 'head')}"
            pod = group["template"]["spec"]
            mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            shared = volumes.get(mounts.get("/dev/shm"), {}).get("emptyDir", {})
            store = int(group["rayStartParams"].get("object-store-memory", 0))
            if shared.get("medium") != "Memory" or not store:
                yield f"{name}: no shared memory, or an object store without a size"
            elif store > quantity(shared["sizeLimit"]):
                yield f"{name}: an object store of {store} in {shared['sizeLimit']}"


def pods_say_where_they_run(objects: list[Object]) -> Iterator[str]:
    for place, pod in pods(objects):
        gpu = any("nvidia.com/gpu" in c["resources"]["limits"] for c in pod["containers"])
        selector = pod.get("nodeSelector", {})
        if "kubernetes.io/arch" not in selector:
            yield f"{place}: no nodeSelector, and the image is of one architecture"
        if gpu and ("nvidia.com/gpu.product" not in selector or not pod.get("tolerations")):
            yield f"{place}: GPUs of no kind"


def names_are_found(objects: list[Object]) -> Iterator[str]:
    claims = {each["metadata"]["name"] for each in of_kind(objects, "PersistentVolumeClaim")}
    for reference in values(objects, "persistentVolumeClaim"):
        if reference["claimName"] not in claims:
            yield f"no PersistentVolumeClaim {reference['claimName']}"
    claimed = {c["metadata"]["name"] for cs in values(objects, "volumeClaimTemplates") for c in cs}
    for place, pod in pods(objects):
        there = claimed | {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in there:
                    yield f"{place}: no volume {mount['name']}"


POLICIES: tuple[Policy, ...] = (
    images_are_pinned,
    ray_is_the_locked_one,
    memory_is_bounded,
    nobody_is_root,
    tokens_of_kubernetes_stay_away,
    ray_asks_for_its_token,
    secrets_are_named_never_written,
    nothing_is_open,
    budgets_can_be_kept,
    shared_memory_is_there,
    pods_say_where_they_run,
    names_are_found,
    wiring.services_are_answered,
    wiring.addresses_are_services,
    wiring.probes_ask_ports_that_are_there,
    wiring.selectors_choose_pods,
    wiring.no_policy_lets_all_in_or_out,
    wiring.folders_are_mounted,
    wiring.nodes_share_their_folders,
    wiring.homes_can_be_written,
    wiring.queues_are_those_of_the_readme,
    wiring.the_host_stays_away,
)
