import io

import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.generation.unclip import UnCLIP
from tests import tiny_stack

# MLflow warns about type hints of its own classes while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning")


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory):
    return tiny_stack.make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def save():
    from pipeline.interop.mlflow_model import save

    return save


@pytest.fixture(scope="module")
def model(run_uri, save, tmp_path_factory):
    import mlflow.pyfunc

    path = tmp_path_factory.mktemp("model") / "unclip"
    save(run_uri, str(path))
    assert [p.name for p in path.parent.iterdir()] == ["unclip"]
    return mlflow.pyfunc.load_model(str(path))


def test_a_saved_model_gives_the_runs_pictures_from_its_own_folder(model, run_uri):
    prompts = ["a red circle", "a blue square"]
    answer = model.predict(pd.DataFrame({"prompt": prompts}), params={"seed": 4})
    expected = UnCLIP.from_run(run_uri, device="cpu")(prompts, seed=4)
    for png, image in zip(answer["png"], expected, strict=True):
        found = Image.open(io.BytesIO(png))
        assert found.tobytes() == image.tobytes()
        assert found.text["Seed"] == "4"


def test_a_wrong_prompt_is_refused(model):
    with pytest.raises(ConfigError, match="prompt 0 is empty"):
        model.predict(pd.DataFrame({"prompt": [" "]}))


def test_an_existing_folder_is_not_overwritten(run_uri, save, tmp_path):
    with pytest.raises(ConfigError, match="exists"):
        save(run_uri, str(tmp_path))
