"""A run's stack as an MLflow pyfunc model: prompts in, PNG bytes out.

``mlflow models serve`` and ``mlflow models predict`` work on it; the weights lie inside the model's
folder, so that it needs neither the run's folder nor this project's storage. ``mlflow_registry``
gives it a name.
"""

import os
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.generation.pictures import models_as_facts, png_bytes
from pipeline.generation.run_stages import RunStages
from pipeline.generation.unclip import UnCLIP
from pipeline.results import INDEX, MANIFEST

ARTIFACT = "run"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would end in a blink
REQUIREMENTS = (
    "mlflow",
    "fsspec",
    "ftfy",
    "jaxtyping",
    "numpy",
    "open_clip_torch",
    "pandas",
    "pillow",
    "pydantic",
    "pyyaml",
    "regex",
    "safetensors",
    "torch",
)
"""Distributions that the model imports; pinned to the versions it was saved with."""
LOADER = """from mlflow.models import set_model

from pipeline.interop.mlflow_model import UnCLIPModel

set_model(UnCLIPModel())
"""
"""The model as code, so that no pickle lies in its folder."""
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "prompt")]),
    outputs=Schema([ColSpec(DataType.binary, "png")]),
    params=ParamSchema(
        [
            ParamSpec("seed", DataType.long, 0),
            ParamSpec("guidance_scale", DataType.double, None),
        ]
    ),
)
"""A column of prompts; the seed, and the decoder's guidance scale (None: the run's own); a column
of PNG files (over HTTP in base64)."""


class UnCLIPModel(PythonModel):
    """`UnCLIP` behind MLflow's interface."""

    def load_context(self, context: Any) -> None:  # noqa: ANN401 - MLflow's untyped context
        """Load the stack from the model's own folder."""
        self._unclip = UnCLIP.from_run(context.artifacts[ARTIFACT])

    def predict(  # type: ignore[override]  # MLflow's own method is declared to return None
        self,
        context: Any,  # noqa: ANN401 - MLflow's untyped context
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Make one picture per row.

        Args:
            context: Not used.
            model_input: A column ``prompt``.
            params: ``seed``, ``guidance_scale``.

        Raises:
            ConfigError: A prompt is refused; nothing was computed.
        """
        if "prompt" not in model_input.columns:
            raise ConfigError(f"expected a column prompt, got {list(model_input.columns)}")
        texts = model_input["prompt"].tolist()
        settings = params or {}
        seed = int(settings.get("seed", 0))
        images = self._unclip(texts, seed=seed, guidance_scale=settings.get("guidance_scale"))
        facts = {"Seed": str(seed), **models_as_facts(self._unclip.stack.fingerprints)}
        pngs = [
            png_bytes(image, {"Prompt": text, **facts})
            for image, text in zip(images, texts, strict=True)
        ]
        return pd.DataFrame({"png": pngs})


def save(run_uri: str, path: str) -> None:
    """Write a finished run's stack as an MLflow model.

    Args:
        run_uri: The run's ``output_dir``.
        path: Local folder that does not exist yet.

    Raises:
        ConfigError: There is no finished run, or the folder exists.
        CheckpointError: The models do not belong together.
    """
    if Path(path).exists():
        raise ConfigError(f"{path} exists; name a new folder")
    unclip = UnCLIP.from_run(run_uri, device="cpu")  # refuses what could not be loaded later
    staging, loader = Path(f"{path}.run"), Path(f"{path}.loader.py")
    try:
        _copy_stack(run_uri, unclip, staging)
        loader.write_text(LOADER)
        with warnings.catch_warnings():
            # Without an example MLflow warns; with one it would make pictures to check it.
            warnings.simplefilter("ignore", UserWarning)
            mlflow.pyfunc.save_model(
                path=path,
                python_model=str(loader),
                artifacts={ARTIFACT: str(staging)},
                signature=SIGNATURE,
                pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
                code_paths=[str(Path(__file__).resolve().parents[1])],
            )
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        loader.unlink(missing_ok=True)


def _copy_stack(run_uri: str, unclip: UnCLIP, folder: Path) -> None:
    """Manifests, weights and an index of the stages that the stack is made of."""
    stages = RunStages.read(run_uri)
    prior = [stages.prior] if stages.prior else []
    uris = [stages.clip, *prior, stages.decoder, *stages.upsamplers]
    names = list(unclip.stack.fingerprints)  # in the same order
    for name, uri in zip(names, uris, strict=True):
        manifest = storage.read_json(storage.join(uri, MANIFEST))
        (folder / name).mkdir(parents=True)
        for file in (MANIFEST, manifest["content"]["weights"]["name"]):
            (folder / name / file).write_bytes(storage.read_bytes(storage.join(uri, file)))
    sampling = unclip.sampling.model_dump(mode="json")
    index = {"stages": {name: name for name in names}, "config": {"generate": sampling}}
    storage.write_json(str(folder / INDEX), index)
