"""On which nodes of a cluster work goes: by Ray's labels, as the run file's ``execution.ray`` says.

Graphs and trainings are told on the driver, which keeps it in Ray Data's context.
"""

from collections.abc import Mapping

from pipeline.errors import ConfigError

TASKS, MODELS = "tasks_on", "models_on"
NODE_S = 300.0
"""Until a node must have come that a run file asks for: autoscalers take minutes."""
Labels = Mapping[str, str]


def place(*, tasks_on: Labels, models_on: Labels) -> None:
    """Fix where work goes, until the next call.

    Args:
        tasks_on: Labels of nodes for tasks on partitions; empty for all nodes.
        models_on: Of nodes for what holds models.

    Raises:
        ConfigError: No node has these labels, nor has one come within ``NODE_S``.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    for name, labels in ((TASKS, tasks_on), (MODELS, models_on)):
        context.set_config(name, dict(labels) or None)
        if labels:
            _require_node(name, dict(labels))


def tasks_on() -> dict[str, str] | None:
    """Ray's ``label_selector`` for tasks on partitions."""
    return _told(TASKS)


def models_on() -> dict[str, str] | None:
    """Ray's ``label_selector`` for what holds models."""
    return _told(MODELS)


def _told(name: str) -> dict[str, str] | None:
    import ray.data

    return ray.data.DataContext.get_current().get_config(name)


def _require_node(name: str, labels: dict[str, str]) -> None:
    import ray

    asked = ray.remote(num_cpus=0)(_there).options(label_selector=labels).remote()
    if ray.wait([asked], timeout=NODE_S)[0]:
        return
    ray.cancel(asked, force=True)
    known = {
        f"{k}: {v}" for node in ray.nodes() if node["Alive"] for k, v in node["Labels"].items()
    }
    listed = ", ".join(sorted(each for each in known if not each.startswith("ray.io/node-id")))
    raise ConfigError(
        f"execution.ray.{name}={labels}: no such node came within {NODE_S:g} s; name labels that "
        f"nodes have: {listed or 'none has any'}"
    )


def _there() -> None:
    """What such a node is asked to do."""
