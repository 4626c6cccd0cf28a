import pytest

from pipeline import results
from pipeline.errors import ConfigError
from pipeline.generation.unclip import UnCLIP
from tests import tiny_stack

# MLflow warns about type hints of its own classes while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A store with two versions of a model, the first a champion."""
    from mlflow.tracking import MlflowClient

    from pipeline.interop import mlflow_model, mlflow_registry

    root = tmp_path_factory.mktemp("registry")
    store = f"sqlite:///{root}/mlflow.db"
    client = MlflowClient(store, store)
    experiment = client.create_experiment("tiny", (root / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    runs = []
    for seed, alias in ((1, "champion"), (2, None)):
        runs.append(tiny_stack.make_run(root / f"run{seed}", seed))
        mlflow_model.save(runs[-1], str(root / "saved" / str(seed)))
        made = mlflow_registry.register(
            str(root / "saved" / str(seed)), store, run_id, "tiny", alias
        )
        assert made.version == str(seed)
    return store, runs, root


def test_an_alias_and_a_version_name_their_models(registry):
    from pipeline.interop.mlflow_registry import fetched

    store, runs, root = registry
    for uri, run in (("models:/tiny@champion", runs[0]), ("models:/tiny/2", runs[1])):
        folder = fetched(uri, store, str(root / "copies"))
        assert fetched(uri, store, str(root / "copies")) == folder, "copied once"
        found, wanted = (UnCLIP.from_run(each, device="cpu") for each in (folder, run))
        assert found.stack.fingerprints == wanted.stack.fingerprints
        assert found("a red circle", seed=3).tobytes() == wanted("a red circle", seed=3).tobytes()
        assert set(results.stage_places(folder)) == set(wanted.stack.fingerprints)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("models:/tiny@other", "no such model .* there are models:/tiny@champion"),
        ("models:/tiny/3", "no such model"),
        ("models:/else@champion", "no such model"),
        ("models:/tiny", "expected models:/name@alias or models:/name/version"),
    ],
)
def test_what_is_not_registered_is_refused_with_what_is(registry, uri, reason):
    from pipeline.interop.mlflow_registry import fetched

    store, _, root = registry
    with pytest.raises(ConfigError, match=reason):
        fetched(uri, store, str(root / "copies"))


def test_a_name_that_mlflow_refuses_is_told(registry):
    from pipeline.interop.mlflow_registry import register

    store, _, root = registry
    with pytest.raises(ConfigError, match="a/b is not registered"):
        register(str(root / "saved" / "1"), store, "0" * 32, "a/b", None)
