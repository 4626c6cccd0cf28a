"""MLflow, driven from the driver alone: one parent run per chain, one child run per stage.

Training writes its metrics to a spool beside its checkpoints; what arrives here is published in
order, once, and kept for later when the store is away. ``tracking.json`` in the output folder
remembers which run belongs to which result and how far it was published, so that a resumed chain
goes on in the same runs.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.config import StrictModel
from pipeline.errors import ConfigError, StorageError

STATE = "tracking.json"
BATCH = 500  # MLflow takes at most 1,000 metrics a call
STEP = "samples_seen"


class TrackingConfig(StrictModel):
    """Where runs are tracked."""

    uri: str = "sqlite"
    """``sqlite``: a database and artifacts under the output folder; or a server's address."""
    experiment: str = "unclip"
    """Name of the MLflow experiment."""


def store_uri(config: TrackingConfig, output_dir: str) -> str:
    """The MLflow tracking address: the embedded database's, or the configured server's."""
    if config.uri != "sqlite":
        return config.uri
    if not storage.is_local(output_dir):
        raise ConfigError(
            f"tracking.uri=sqlite needs a local output_dir, this one is {output_dir}; "
            "name an MLflow server"
        )
    return f"sqlite:///{storage.local_path(output_dir).resolve()}/mlflow.db"


class Tracking:
    """One chain's MLflow runs."""

    def __init__(self, config: TrackingConfig, output_dir: str, name: str) -> None:
        """Open the store and create, or find again, the chain's parent run."""
        from mlflow.tracking import MlflowClient

        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.ERROR)
        self.uri = store_uri(config, output_dir)
        if config.uri == "sqlite":
            storage.local_path(output_dir).mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(self.uri)
        self._output_dir = output_dir
        self._state_uri = storage.join(output_dir, STATE)
        self._state: dict[str, Any] = {"parent": None, "stages": {}}
        if storage.exists(self._state_uri):
            self._state = storage.read_json(self._state_uri)
        self._experiment_id = self._experiment(config)
        if self._state["parent"] is None:
            self._state["parent"] = self._create(name, {})
            self._save()

    @property
    def parent_run_uri(self) -> str:
        """``runs:/<id>`` of the chain's parent run."""
        return f"runs:/{self._state['parent']}"

    def stage(self, name: str, identity: str, tags: Mapping[str, str]) -> "StageRun":
        """The child run of one result, created on the first call for this identity."""
        key = f"{name}/{identity[:12]}"
        entry = self._state["stages"].get(key)
        if entry is None:
            all_tags = {"mlflow.parentRunId": self._state["parent"], "identity": identity, **tags}
            entry = {"run_id": self._create(name, all_tags), "published": -1}
            self._state["stages"][key] = entry
            self._save()
        self._client.update_run(entry["run_id"], status="RUNNING")
        return StageRun(self._client, entry, self._save)

    def finish(self, status: str, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        """Close the parent run with the chain's headline numbers and files.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
            metrics: Headline numbers.
            artifacts: Files to keep with the parent run.
        """
        for name, value in metrics.items():
            self._client.log_metric(self._state["parent"], name, value)
        for path in artifacts:
            self._client.log_artifact(self._state["parent"], str(path))
        self._client.set_terminated(self._state["parent"], status)

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment_id, tags=dict(tags), run_name=name)
        return run.info.run_id

    def _experiment(self, config: TrackingConfig) -> str:
        found = self._client.get_experiment_by_name(config.experiment)
        if found is not None:
            return found.experiment_id
        artifacts = None
        if config.uri == "sqlite":
            artifacts = storage.local_path(self._output_dir).resolve() / "mlflow-artifacts"
        location = artifacts.as_uri() if artifacts else None
        return self._client.create_experiment(config.experiment, artifact_location=location)

    def _save(self) -> None:
        storage.write_json(self._state_uri, self._state)


class StageRun:
    """The MLflow run of one stage; what cannot be published now is published with the next call."""

    def __init__(self, client: Any, entry: dict[str, Any], save: Any) -> None:  # noqa: ANN401
        """Made by ``Tracking.stage``."""
        self._client, self._entry, self._save = client, entry, save
        self._waiting: list[Mapping[str, float]] = []

    @property
    def run_id(self) -> str:
        """MLflow's id of this run."""
        return self._entry["run_id"]

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Keep the stage's whole configuration as an artifact."""
        self._client.log_dict(self.run_id, dict(config), "config.json")

    def publish(self, records: Sequence[Mapping[str, float]]) -> bool:
        """Publish spool records (``samples_seen`` and metrics) that were not published before.

        Returns:
            False when the store did not take them; they stay queued, in order.
        """
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        self._waiting += [left for r in records if (left := self._unpublished(r))]
        now = int(time.time() * 1000)
        while self._waiting:
            part = self._waiting[: BATCH // 10]
            metrics = [
                Metric(name, float(value), now, int(record[STEP]))
                for record in part
                for name, value in record.items()
                if name != STEP
            ]
            try:
                for start in range(0, len(metrics), BATCH):
                    self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
            except MlflowException:
                return False
            for record in part:
                self._note_published(record)
            del self._waiting[: len(part)]
        self._save()
        return True

    def _unpublished(self, record: Mapping[str, float]) -> Mapping[str, float] | None:
        """What of a record was not published: several records may share the newest step."""
        step, last = record[STEP], self._entry["published"]
        known = self._entry.get("published_names", []) if step == last else []
        left = {name: value for name, value in record.items() if name not in known}
        return left if step >= last and len(left) > 1 else None

    def _note_published(self, record: Mapping[str, float]) -> None:
        step = int(record[STEP])
        known = self._entry.get("published_names", []) if step == self._entry["published"] else []
        self._entry["published"] = step
        self._entry["published_names"] = sorted({*known, *record} - {STEP})

    def log_picture(self, path: Path, samples_seen: int) -> None:
        """Keep a picture grid under its step."""
        from PIL import Image

        with Image.open(path) as picture:
            self._client.log_image(
                self.run_id, picture.convert("RGB"), key="grid", step=samples_seen
            )

    def finish(self, status: str, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        """Close the run; arguments as for ``Tracking.finish``."""
        self.publish([])
        for name, value in metrics.items():
            self._client.log_metric(self.run_id, name, value)
        for path in artifacts:
            self._client.log_artifact(self.run_id, str(path))
        self._client.set_terminated(self.run_id, status)


def keep_files(config: TrackingConfig, output_dir: str, run_id: str, places: Sequence[str]) -> None:
    """Keep files with a run that is finished already.

    Args:
        config: Where runs are tracked.
        output_dir: Output folder of the chain.
        run_id: Of a stage's run.
        places: Local files.

    Raises:
        StorageError: The store is away, does not know the run or takes no files.
    """
    os.environ.setdefault("MLFLOW_ENABLE_TELEMETRY", "false")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.ERROR)
    uri = store_uri(config, output_dir)
    try:
        client = MlflowClient(uri)
        for place in places:
            client.log_artifact(run_id, str(storage.local_path(place)))
    except (MlflowException, OSError) as error:
        raise StorageError(
            f"{uri}: run {run_id} takes no files ({error}); they lie at {', '.join(places)}: start "
            "the server and call again, or call with --no-tracking"
        ) from error


def import_early() -> None:
    """Import mlflow (4 s) in the background while something else waits."""
    import threading

    os.environ.setdefault("MLFLOW_ENABLE_TELEMETRY", "false")
    threading.Thread(target=__import__, args=("mlflow.tracking",), daemon=True).start()
