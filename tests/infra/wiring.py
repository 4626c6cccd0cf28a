"""What in our manifests points at something else must find it: ports, labels, keys, folders.

Kubernetes takes all of it as it is; nothing answers then, and no message says why.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.infra import manifests
from tests.infra.manifests import INFRA, Object, cluster_spec, groups, of_kind

# What KubeRay gives its pods: ports that a container need not state, and a label for its clean-up.
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
WORKER_PORTS = {"metrics": 8080}
CLEANUP = {"ray.io/node-type": "redis-cleanup"}


@dataclass(frozen=True)
class Pod:
    """One that the objects make."""

    place: str
    labels: dict[str, str]
    ports: dict[str, int]


TRACKING = Pod("tracking server", {"app": "unclip-mlflow"}, {"http": 5000})
"""Only the paper's overlay brings it; policies of the base may name it all the same."""


def values(value: Any, name: str) -> Iterator[Any]:
    """Every value under a key of this name, however deep."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key == name:
                yield each
            yield from values(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from values(each, name)


def made(objects: list[Object]) -> list[Pod]:
    """All pods, with the labels and ports that they will have."""
    found = [Pod("clean-up of Redis", CLEANUP, {})]
    for each in [*of_kind(objects, "Deployment"), *of_kind(objects, "StatefulSet")]:
        template = each["spec"]["template"]
        opened = {
            p["name"]: p["containerPort"] for ports in values(template, "ports") for p in ports
        }
        found.append(Pod(each["metadata"]["name"], template["metadata"]["labels"], opened))
    for each in [*of_kind(objects, "RayCluster"), *of_kind(objects, "RayJob")]:
        name = each["metadata"]["name"]
        for number in range(len(groups(each))):
            kind, ports = ("worker", WORKER_PORTS) if number else ("head", HEAD_PORTS)
            labels = {"ray.io/node-type": kind, "ray.io/is-ray-node": "yes"}
            found.append(Pod(f"{name} {kind}", {**labels, "ray.io/cluster": name}, ports))
    return found


def chosen(selector: Object, pods: list[Pod]) -> list[Pod]:
    """Those that a selector means."""
    wanted = {key: [value] for key, value in selector.get("matchLabels", {}).items()}
    wanted |= {each["key"]: each["values"] for each in selector.get("matchExpressions", [])}
    return [pod for pod in pods if all(pod.labels.get(key) in wanted[key] for key in wanted)]


def services_are_answered(objects: list[Object]) -> Iterator[str]:
    for service in of_kind(objects, "Service"):
        name, spec = service["metadata"]["name"], service["spec"]
        pods = chosen({"matchLabels": spec["selector"]}, made(objects))
        listening = {port for pod in pods for port in (*pod.ports, *pod.ports.values())}
        for port in spec["ports"]:
            if port.get("targetPort", port["port"]) not in listening:
                yield f"Service {name}: no pod of its selector listens on {port['port']}"


def addresses_are_services(objects: list[Object]) -> Iterator[str]:
    texts = [*values(objects, "redisAddress"), *values(objects, "entrypoint")]
    open_ports = {
        (service["metadata"]["name"], port["port"])
        for service in of_kind(objects, "Service")
        for port in service["spec"]["ports"]
    }
    for name, port in re.findall(r"\b(unclip-\w+):(\d+)", " ".join(texts)):
        if (name, int(port)) not in open_ports:
            yield f"no Service {name} with the port {port}"


def probes_ask_ports_that_are_there(objects: list[Object]) -> Iterator[str]:
    for place, container in (
        (each["metadata"]["name"], container)
        for each in objects
        for containers in values(each, "containers")
        for container in containers
    ):
        there = {p[key] for p in container.get("ports", []) for key in ("name", "containerPort")}
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            for port in values(container.get(probe), "port"):
                if port not in there:
                    yield f"{place}: its {probe} asks the port {port}, which it has not"


def selectors_choose_pods(objects: list[Object]) -> Iterator[str]:
    pods = [*made(objects), TRACKING]
    for each in [*of_kind(objects, "Deployment"), *of_kind(objects, "StatefulSet")]:
        own = [pod for pod in pods if pod.place == each["metadata"]["name"]]
        if not chosen(each["spec"]["selector"], own):
            yield f"{each['kind']} {own[0].place}: its selector is not its pods'"
    for each in [*of_kind(objects, "NetworkPolicy"), *of_kind(objects, "PodDisruptionBudget")]:
        spec, name = each["spec"], f"{each['kind']} {each['metadata']['name']}"
        mine = [spec[key] for key in ("podSelector", "selector") if key in spec]
        peers = [p for key in ("from", "to") for peers in values(spec, key) for p in peers]
        mine += [p["podSelector"] for p in peers if p.keys() == {"podSelector"}]
        if not all(chosen(selector, pods) for selector in mine):
            yield f"{name}: a selector chooses no pod"
        opened = [p["port"] for rule in spec.get("ingress", []) for p in rule.get("ports", [])]
        listening = {p for pod in chosen(mine[0], pods) for p in pod.ports.values()}
        for port in set(opened) - listening:
            yield f"{name}: lets in to {port}, where nothing listens"


def no_policy_lets_all_in_or_out(objects: list[Object]) -> Iterator[str]:
    """Who comes in is named by its labels; addresses and foreign namespaces by their ports too."""
    for policy in of_kind(objects, "NetworkPolicy"):
        name = policy["metadata"]["name"]
        rules = [
            (key, rule) for key in ("ingress", "egress") for rule in policy["spec"].get(key, [])
        ]
        for key, rule in rules:
            peers = rule.get("from" if key == "ingress" else "to", [])
            named = [any(values(peer, "podSelector")) for peer in peers]
            if not peers or (key == "ingress" and not all(named)):
                yield f"NetworkPolicy {name}: its {key} is open to everybody"
            wide = [peer for peer in peers if peer.keys() != {"podSelector"}]
            if wide and not rule.get("ports"):
                yield f"NetworkPolicy {name}: its {key} is open on every port"


def folders_are_mounted(objects: list[Object]) -> Iterator[str]:
    """Where a job writes lies on a claim that all its nodes may write to."""
    modes = {
        each["metadata"]["name"]: each["spec"]["accessModes"]
        for each in of_kind(objects, "PersistentVolumeClaim")
    }
    for job in of_kind(objects, "RayJob"):
        folder = "".join(re.findall(r"output_dir=(/[^/\s]+)", job["spec"]["entrypoint"]))
        for group in groups(job) if folder else []:  # a bucket is no folder
            pod = group["template"]["spec"]
            (mounts,) = [container["volumeMounts"] for container in pod["containers"]]
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            held = [volumes.get(m["name"], {}) for m in mounts if m["mountPath"] == folder]
            claims = [claim["claimName"] for claim in values(held, "persistentVolumeClaim")]
            if not any(modes.get(claim) == ["ReadWriteMany"] for claim in claims):
                yield f"{job['metadata']['name']}: {folder} is no claim that all nodes write to"


def nodes_share_their_folders(objects: list[Object]) -> Iterator[str]:
    """What a node of a cluster finds at a path, the others find there too."""
    for each in [*of_kind(objects, "RayCluster"), *of_kind(objects, "RayJob")]:
        head, *workers = map(_claims, groups(each))
        for group, found in zip(groups(each)[1:], workers, strict=True):
            if found != head:
                place = f"{each['metadata']['name']} {group['groupName']}"
                yield f"{place}: its claims are not mounted as the head's"


def _claims(group: Object) -> set[tuple[str, str, str]]:
    """Path, folder of the claim and claim, of every mount of one."""
    pod = group["template"]["spec"]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    return {
        (mount["mountPath"], mount.get("subPath", ""), claims[mount["name"]]["claimName"])
        for container in pod["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] in claims
    }


def homes_can_be_written(objects: list[Object]) -> Iterator[str]:
    """Python and Ray write below HOME, and our image itself cannot be written to."""
    for place, pod in manifests.pods(objects):
        for container in pod["containers"]:
            own = "unclip-pipeline" in container["image"]
            homes = [e.get("value") for e in container.get("env", []) if e["name"] == "HOME"]
            mounts = [m for m in container.get("volumeMounts", []) if not m.get("readOnly")]
            if own and not {m["mountPath"] for m in mounts}.intersection(homes):
                yield f"{place}: {container['name']} has no HOME that it can write to"


def queues_are_those_of_the_readme(objects: list[Object]) -> Iterator[str]:
    """Kueue leaves a job alone for ever whose queue is not there; who installs it makes that."""
    (there,) = re.findall(r"LocalQueue `([^`]+)`", (INFRA / "README.md").read_text())
    for job in of_kind(objects, "RayJob"):
        queue = job["metadata"]["labels"].get("kueue.x-k8s.io/queue-name", there)
        if queue != there:
            yield f"{job['metadata']['name']}: nobody is told to make the queue {queue}"


def the_host_stays_away(objects: list[Object]) -> Iterator[str]:
    for each in objects:
        for key in ("hostNetwork", "hostPID", "hostIPC", "hostPath", "hostPort", "privileged"):
            if any(values(each, key)):
                yield f"{each['kind']} {each['metadata']['name']}: {key}"
        for user in values(each, "runAsUser"):
            if user == 0:
                yield f"{each['kind']} {each['metadata']['name']}: runAsUser 0"
    for each in [*of_kind(objects, "RayCluster"), *of_kind(objects, "RayJob")]:
        kind = cluster_spec(each)["headGroupSpec"].get("serviceType", "ClusterIP")
        if kind != "ClusterIP":
            yield f"{each['metadata']['name']}: the head's Service is {kind}"
