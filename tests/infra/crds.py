"""Objects against KubeRay's own resource definitions, as the Kubernetes API would check them.

The definitions are OpenAPI with Kubernetes' extensions: defaults are filled in first, unknown
fields are refused (the API only drops them, so that a typo would be silent), quantities may be
numbers or texts, and rules in CEL read the object they stand at.
"""

import functools
from collections.abc import Iterator
from typing import Any

import celpy
import jsonschema
from celpy.adapter import json_to_cel

from tests.infra.manifests import CRDS, Object, read_yaml

RULES = "x-kubernetes-validations"


@functools.cache
def schema_of(kind: str) -> Object:
    """The schema of ``kind`` in the version v1, read from ``KUBERAY_CRDS``."""
    (definition,) = read_yaml((CRDS / f"ray.io_{kind.lower()}s.yaml").read_text())
    (found,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    return found["schema"]["openAPIV3Schema"]


@functools.cache
def _validator(kind: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(_closed(schema_of(kind)))


def findings(each: Object) -> list[str]:
    """What the API would refuse or silently drop."""
    schema = schema_of(each["kind"])
    filled = _filled(each, schema)
    name = f"{each['kind']} {each['metadata']['name']}"
    found = [
        f"{name} {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in _validator(each["kind"]).iter_errors(filled)
    ]
    return found + [f"{name} {told}" for told in _refused(filled, schema, "")]


def _closed(schema: Any) -> Any:
    """As JSON Schema: no unknown fields, and a quantity is a number or a text."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {k: _closed(v) for k, v in schema.items() if not k.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema and isinstance(schema.get("type"), str):
        closed.setdefault("additionalProperties", False)
        if {"apiVersion", "kind", "metadata"} <= set(schema["properties"]):
            closed["properties"]["metadata"] = {"type": "object"}
    return closed


def _filled(value: Any, schema: Object) -> Any:
    """With the schema's defaults, without nulls, as the API stores it."""
    if isinstance(value, list):
        return [_filled(each, schema.get("items", {})) for each in value]
    if not isinstance(value, dict):
        return value
    fields, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    filled = {
        name: _filled(each, fields.get(name, others if isinstance(others, dict) else {}))
        for name, each in value.items()
        if each is not None
    }
    missing = {n: s["default"] for n, s in fields.items() if "default" in s and n not in filled}
    return filled | missing


def _refused(value: Any, schema: Object, place: str) -> Iterator[str]:
    for rule in schema.get(RULES, []):
        if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], value):
            yield f"{place}: {rule['message']}"
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _refused(each, schema.get("items", {}), f"{place}.{number}")
    elif isinstance(value, dict):
        for name, each in value.items():
            fields = schema.get("properties", {})
            yield from _refused(each, fields.get(name, {}), f"{place}.{name}".lstrip("."))


@functools.cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def _holds(rule: str, value: Any) -> bool:
    return bool(_program(rule).evaluate({"self": json_to_cel(value)}))
