"""Names for models: versions and aliases in the registry of a run's MLflow."""

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from pipeline.errors import ConfigError
from pipeline.interop.mlflow_model import ARTIFACT
from pipeline.interop.new_folder import new_folder

_NAMED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Registered:
    """One version of a registered model."""

    name: str
    version: str


def register(folder: str, store: str, run_id: str, name: str, alias: str | None) -> Registered:
    """Keep a saved model with an MLflow run, as the next version of a name.

    Args:
        folder: What ``mlflow_model.save`` wrote.
        store: MLflow's address.
        run_id: MLflow's run that made the models.
        name: Of the registered model; made where it is new.
        alias: Moved to this version; None: no alias.

    Raises:
        ConfigError: The store refuses; says why.
    """
    client = MlflowClient(store, store)
    place = f"registered/{name}-{uuid.uuid4().hex[:12]}"  # versions never share files
    try:
        client.log_artifacts(run_id, folder, place)
        if name not in {found.name for found in client.search_registered_models()}:
            client.create_registered_model(name)
        source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
        version = client.create_model_version(name, source, run_id).version
        if alias is not None:
            client.set_registered_model_alias(name, alias, version)
    except MlflowException as error:
        raise ConfigError(f"MLflow at {store}: {name} is not registered: {error}") from error
    return Registered(name, str(version))


def fetched(uri: str, store: str, folder: str) -> str:
    """The run folder inside a registered model, copied here once per version.

    Args:
        uri: ``models:/name@alias`` or ``models:/name/version``.
        store: MLflow's address.
        folder: Where copies are kept.

    Returns:
        A folder as ``UnCLIP.from_run`` takes it.

    Raises:
        ConfigError: There is no such model, version or alias; says which there are.
    """
    client = MlflowClient(store, store)
    found = _resolved(client, uri, store)
    target = Path(folder) / f"{found.name}-{found.version}"
    if not target.exists():
        source = client.get_model_version_download_uri(found.name, found.version)
        with new_folder(str(target)) as partial:
            mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(partial), tracking_uri=store
            )
    (saved,) = (path.parent for path in target.rglob("MLmodel"))
    flavor: Any = Model.load(str(saved)).flavors["python_function"]
    return str(saved / flavor["artifacts"][ARTIFACT]["path"])


def _resolved(client: MlflowClient, uri: str, store: str) -> Registered:
    match = _NAMED.fullmatch(uri)
    if match is None:
        raise ConfigError(f"{uri}: expected models:/name@alias or models:/name/version")
    name, alias, version = match["name"], match["alias"], match["version"]
    try:
        if alias is not None:
            version = str(client.get_model_version_by_alias(name, alias).version)
        client.get_model_version(name, version)
    except MlflowException as error:
        known = _known(client) or "none: jobs.export --format mlflow --register NAME makes one"
        raise ConfigError(f"{uri}: no such model at {store}; there are {known}") from error
    return Registered(name, version)


def _known(client: MlflowClient) -> str:
    return ", ".join(
        f"models:/{model.name}@{alias}" if alias else f"models:/{model.name}"
        for model in client.search_registered_models()
        for alias in (model.aliases or {"": ""})
    )
