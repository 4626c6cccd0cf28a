"""How what is tracked reaches MLflow: the store's address, the book of runs, the sender.

The sender carries messages of the outbox out, one after the other; the book, ``tracking.json``,
says which run belongs to which result.
"""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from pipeline import storage
from pipeline.config import StrictModel
from pipeline.errors import ConfigError, StorageError
from pipeline.outbox import AwayError, Message

STATE = "tracking.json"
PARENT = "parent"
"""Key of the chain's own run; stages have ``<name>/<first digits of their identity>``."""
KEY_TAG = "unclip.key"
"""Names a run before the server does: should a creation be repeated, the run is found again."""
STEP = "samples_seen"
AT_MS = "at_ms"
"""Unix time of a record that is one of a machine, not of a step."""
WHEN = (STEP, AT_MS)
BATCH = 500  # MLflow takes at most 1,000 metrics a call
PASSING = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"})
"""MLflow's codes of errors that say nothing about the message."""


class TrackingConfig(StrictModel):
    """Where runs are tracked."""

    uri: str = "sqlite"
    """``sqlite``: a database and artifacts under the (local) output folder;
    ``sqlite:////folder/mlflow.db``: in that folder; or a server's address."""
    experiment: str = "unclip"
    """Name of the MLflow experiment."""


def store_uri(config: TrackingConfig, output_dir: str) -> str:
    """The MLflow tracking address: the embedded database's, or the configured server's."""
    if config.uri != "sqlite":
        return config.uri
    if not storage.is_local(output_dir):
        raise ConfigError(
            f"tracking.uri=sqlite needs a local output_dir, this one is {output_dir}; "
            "name an MLflow server, or sqlite:////<folder>/mlflow.db"
        )
    return f"sqlite:///{storage.local_path(output_dir).resolve()}/mlflow.db"


class Book:
    """``tracking.json``: written by whoever hands over and by the thread that sends."""

    def __init__(self, output_dir: str) -> None:
        """Read what earlier calls wrote."""
        self._uri, self._lock = storage.join(output_dir, STATE), threading.Lock()
        self.state: dict[str, Any] = {"parent": None, "stages": {}}
        if storage.exists(self._uri):
            self.state = storage.read_json(self._uri)
        self.state.setdefault("chain", uuid.uuid4().hex)

    def run_id(self, key: str) -> str | None:
        """MLflow's id of a run, None where there is none yet."""
        if key == PARENT:
            return self.state["parent"]
        return self.state["stages"].get(key, {}).get("run_id")

    def entry(self, key: str) -> dict[str, Any]:
        """What is known of a stage's run: its id, and how far each metric was handed over."""
        entry = self.state["stages"].setdefault(key, {"run_id": None, "published": {}})
        if not isinstance(entry["published"], dict):  # as 0.1.0 wrote it: one place for all
            entry["published"] = dict.fromkeys(entry.pop("published_names", []), entry["published"])
        return entry

    def name_run(self, key: str, run_id: str) -> None:
        """Note the id that the store has given."""
        if key == PARENT:
            self.state["parent"] = run_id
        else:
            self.entry(key)["run_id"] = run_id
        self.save()

    def save(self) -> None:
        """Write it down."""
        with self._lock:
            storage.write_json(self._uri, self.state)


class Sender:
    """Carries messages out with MLflow's client; lives in the outbox's thread."""

    def __init__(self, config: TrackingConfig, output_dir: str, book: Book) -> None:
        """Open nothing yet: the first message does."""
        self._config, self._output_dir, self._book = config, output_dir, book
        self._client: Any = None
        self._experiment_id = ""
        self._carry_out: dict[str, Callable[[str, Message], None]] = {
            "start": self._start,
            "config": self._keep_config,
            "metrics": self._metrics,
            "picture": self._picture,
            "artifact": self._artifact,
            "end": self._end,
        }

    def __call__(self, message: Message) -> None:
        """Carry out one message.

        Raises:
            AwayError: The store does not answer.
        """
        from mlflow.exceptions import MlflowException

        try:
            if self._client is None:
                self._open()
            self._carry_out[message["do"]](message["key"], message)
        except MlflowException as error:
            if error.error_code in PASSING:
                raise AwayError(f"{self._config.uri} does not answer ({_first(error)})") from error
            raise
        except OSError as error:  # requests' errors are such, and those of artifact stores
            if isinstance(error, FileNotFoundError):
                raise
            raise AwayError(f"{self._config.uri} does not answer ({_first(error)})") from error
        except StorageError as error:  # of a file that was to be sent
            raise AwayError(_first(error)) from error

    def _open(self) -> None:
        uri, location = store_uri(self._config, self._output_dir), None
        if uri.startswith("sqlite:///"):
            folder = storage.local_path(uri.removeprefix("sqlite:///")).resolve().parent
            folder.mkdir(parents=True, exist_ok=True)
            location = (folder / "mlflow-artifacts").as_uri()
        client = _client(uri)
        found = client.get_experiment_by_name(self._config.experiment)
        if found is None:
            self._experiment_id = client.create_experiment(
                self._config.experiment, artifact_location=location
            )
        else:
            self._experiment_id = found.experiment_id
        self._client = client

    def _start(self, key: str, message: Message) -> None:
        run_id = self._book.run_id(key) or self._found(key) or self._create(key, message)
        self._book.name_run(key, run_id)
        self._client.update_run(run_id, status="RUNNING")

    def _tag(self, key: str) -> str:
        return f"{self._book.state['chain']}/{key}"

    def _found(self, key: str) -> str | None:
        """A run that was created by a process that died before it could say so."""
        condition = f"tags.`{KEY_TAG}` = '{self._tag(key)}'"
        runs = self._client.search_runs([self._experiment_id], condition, max_results=1)
        return runs[0].info.run_id if runs else None

    def _create(self, key: str, message: Message) -> str:
        upstream = {name: self._book.run_id(known) for name, known in message["upstream"].items()}
        tags = {f"upstream.{name}": run_id for name, run_id in upstream.items() if run_id}
        if key != PARENT:
            tags["mlflow.parentRunId"] = self._run(PARENT)
        run = self._client.create_run(
            self._experiment_id,
            start_time=message["at_ms"],
            tags={**message["tags"], **tags, KEY_TAG: self._tag(key)},
            run_name=message["name"],
        )
        return run.info.run_id

    def _run(self, key: str) -> str:
        run_id = self._book.run_id(key)
        assert run_id is not None  # its start was sent before
        return run_id

    def _metrics(self, key: str, message: Message) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), record.get(AT_MS, message["at_ms"]), int(record[STEP]))
            for record in message["records"]
            for name, value in record.items()
            if name not in WHEN
        ]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._run(key), metrics=metrics[start : start + BATCH])

    def _keep_config(self, key: str, message: Message) -> None:
        self._client.log_dict(self._run(key), message["content"], "config.json")

    def _picture(self, key: str, message: Message) -> None:
        from PIL import Image

        with storage.local_copy(message["path"]) as path, Image.open(path) as picture:
            self._client.log_image(
                self._run(key),
                picture.convert("RGB"),
                key=message.get("series", "grid"),
                step=message["step"],
                timestamp=message["at_ms"],
                synchronous=True,
            )

    def _artifact(self, key: str, message: Message) -> None:
        with storage.local_copy(message["path"]) as path:
            self._client.log_artifact(self._run(key), str(path))

    def _end(self, key: str, message: Message) -> None:
        self._client.set_terminated(self._run(key), message["status"], message["at_ms"])


def _first(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]


def _client(uri: str) -> Any:  # noqa: ANN401 - its import takes seconds
    for name, value in (
        ("MLFLOW_ENABLE_TELEMETRY", "false"),
        # The outbox tries again; a client that does so too only hides that the store is away.
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "30"),
        # Standard output belongs to the job.
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
    ):
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.ERROR)
    return MlflowClient(uri)


def keep_files(config: TrackingConfig, output_dir: str, run_id: str, places: Sequence[str]) -> None:
    """Keep files with a run that is finished already.

    Args:
        config: Where runs are tracked.
        output_dir: Output folder of the chain.
        run_id: Of a stage's run.
        places: The files.

    Raises:
        StorageError: The store is away, does not know the run or takes no files.
    """
    uri = store_uri(config, output_dir)
    client = _client(uri)
    from mlflow.exceptions import MlflowException

    try:
        for place in places:
            with storage.local_copy(place) as path:
                client.log_artifact(run_id, str(path))
    except (MlflowException, OSError) as error:
        raise StorageError(
            f"{uri}: run {run_id} takes no files ({error}); they lie at {', '.join(places)}: start "
            "the server and call again, or call with --no-tracking"
        ) from error
