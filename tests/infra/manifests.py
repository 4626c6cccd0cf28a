"""What Kubernetes would be sent: an overlay, rendered by kustomize as ``kubectl apply -k`` does."""

import copy
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
OVERLAYS = ("demo", "paper")
CRDS = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared/kuberay"))

Object = dict[str, Any]

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl (1.27 or later) renders the overlays"
)
needs_crds = pytest.mark.skipif(
    not (CRDS / "ray.io_rayjobs.yaml").exists(),
    reason="KUBERAY_CRDS names no folder with ray.io_rayclusters.yaml and ray.io_rayjobs.yaml",
)


def read_yaml(text: str) -> list[Any]:
    """All documents of a YAML text, by the fast loader where it was built."""
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


@functools.cache
def _objects(overlay: str) -> list[Object]:
    command = ["kubectl", "kustomize", str(INFRA / "kuberay/overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return read_yaml(done.stdout)


def rendered(overlay: str) -> list[Object]:
    """All objects of an overlay, to be changed as a test likes."""
    return copy.deepcopy(_objects(overlay))


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def cluster_spec(each: Object) -> Object:
    """The part that RayCluster and RayJob share."""
    return each["spec"]["rayClusterSpec"] if each["kind"] == "RayJob" else each["spec"]


def groups(each: Object) -> list[Object]:
    """Head and worker groups of a RayCluster or RayJob."""
    spec = cluster_spec(each)
    return [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Place and specification of every pod that the objects make."""
    for each in objects:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] in ("RayCluster", "RayJob"):
            for group in groups(each):
                yield f"{name} {group.get('groupName', 'head')}", group["template"]["spec"]
        elif each["kind"] in ("Deployment", "StatefulSet"):
            yield name, each["spec"]["template"]["spec"]
