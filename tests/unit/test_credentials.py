import json

import pytest

from pipeline.config import StrictModel, load_run
from pipeline.credentials import SUBMISSION, refuse_in_submission
from pipeline.errors import ConfigError

SECRET = "correct-horse-battery-staple"


class Tracking(StrictModel):
    uri: str
    others: tuple[dict[str, str], ...] = ()


class Run(StrictModel):
    tracking: Tracking


def submitted(**env_vars):
    return {SUBMISSION: json.dumps({"runtime_env": {"env_vars": env_vars}, "metadata": {}})}


@pytest.mark.parametrize(
    ("override", "place"),
    [
        (f"tracking.uri=http://trainer:{SECRET}@mlflow.internal:5000", "tracking.uri"),
        (f"tracking.uri=HTTPS://{SECRET}@mlflow.internal", "tracking.uri"),
        (f"tracking.uri=postgresql+psycopg2://a:{SECRET}@store/mlflow", "tracking.uri"),
        (f"tracking.others=[{{}}, {{url: 's3://a:{SECRET}@bucket/x'}}]", "tracking.others.1.url"),
    ],
)
def test_an_address_with_a_user_name_is_refused_and_not_repeated(tmp_path, override, place):
    run_file = tmp_path / "run.yaml"
    run_file.write_text("tracking: {uri: sqlite, unknown: 1}")
    with pytest.raises(ConfigError, match=f"{place} holds.*MLFLOW_TRACKING_PASSWORD") as error:
        load_run(Run, run_file, [override])
    assert SECRET not in str(error.value)


def test_other_addresses_pass(tmp_path):
    run_file = tmp_path / "run.yaml"
    run_file.write_text("tracking: {uri: 'http://mlflow.internal:5000/a@b?to=http://c@d'}")
    assert load_run(Run, run_file).tracking.uri.endswith("c@d")


@pytest.mark.parametrize(
    "name",
    [
        "MLFLOW_TRACKING_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "RATING_TOKEN",
        "RAY_AUTH_TOKEN",
        "some_api_key",
    ],
)
def test_a_submission_with_a_secret_is_refused_by_name_alone(name):
    with pytest.raises(ConfigError, match=f"hold {name}, and") as error:
        refuse_in_submission(submitted(**{name: SECRET, "OMP_NUM_THREADS": "1"}))
    assert SECRET not in str(error.value)


def test_an_address_with_a_password_is_a_secret_whatever_its_name():
    with pytest.raises(ConfigError, match="hold HTTPS_PROXY, and"):
        refuse_in_submission(submitted(HTTPS_PROXY=f"http://me:{SECRET}@proxy:3128"))


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {SUBMISSION: "{}"},
        {SUBMISSION: '{"runtime_env": null}'},
        submitted(RAY_AUTH_TOKEN_PATH="/secrets/token", RAY_AUTH_MODE="token"),
        submitted(TOKENIZERS_PARALLELISM="false", AWS_WEB_IDENTITY_TOKEN_FILE="/a", EMPTY_KEY=""),
    ],
)
def test_names_and_places_of_secrets_pass(environment):
    assert refuse_in_submission(environment) is None
