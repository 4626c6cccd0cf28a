from pathlib import Path

import pytest
import yaml

from pipeline.chain.describe import describe_run
from pipeline.config import load_run
from pipeline.gpus import GPUS
from pipeline.models import scales
from pipeline.planning import text
from pipeline.planning.offers import Offer
from pipeline.planning.trainings import trainings
from pipeline.run_file import RunFile
from tests.foreign_shards import write_img2dataset

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "jobs/configs"
RUN_FILES = sorted(CONFIGS.rglob("*.yaml"))
MODELS = ("clip", "prior", "prior_ar", "decoder", "upsampler_64_256", "upsampler_256_1024")
LARGE = [f"{family}/{model}" for family in ("karlo", "paper") for model in MODELS]
SIZES = {
    "karlo/clip": scales.KARLO_CLIP,
    "karlo/prior": scales.KARLO_PRIOR,
    "karlo/decoder": scales.KARLO_DECODER,
    "karlo/upsampler_64_256": scales.KARLO_UPSAMPLER_64_256,
    "karlo/upsampler_256_1024": scales.PAPER_UPSAMPLER_256_1024,
    "paper/clip": scales.PAPER_CLIP,
    "paper/prior": scales.PAPER_PRIOR,
    "paper/prior_ar": scales.PAPER_AUTOREGRESSIVE_PRIOR,
    "paper/decoder": scales.PAPER_DECODER,
    "paper/upsampler_64_256": scales.PAPER_UPSAMPLER_64_256,
    "paper/upsampler_256_1024": scales.PAPER_UPSAMPLER_256_1024,
}
TABLE_3 = {  # batch, iterations, learning rate, weight decay, beta 2, epsilon, decay of the average
    "prior_ar": (4096, 1_000_000, 1.6e-4, 4.0e-2, 0.91, 1e-10, 0.999),
    "prior": (4096, 600_000, 1.1e-4, 6.0e-2, 0.96, 1e-6, 0.9999),
    "decoder": (2048, 800_000, 1.2e-4, 0.0, 0.999, 1e-8, 0.9999),
    "upsampler_64_256": (1024, 1_000_000, 1.2e-4, 0.0, 0.999, 1e-8, 0.9999),
    "upsampler_256_1024": (512, 1_000_000, 1.0e-4, 0.0, 0.999, 1e-8, 0.9999),
}
HOURS = {"prior": 3800, "decoder": 9800, "upsampler_64_256": 1500, "upsampler_256_1024": 1800}
"""GPU hours of the paper's models, by hand: three forward passes, 350 and 300 TFLOP/s."""


def read(path):
    values = yaml.safe_load(path.read_text())
    overrides = []
    if values.get("candidates", {}).get("type") == "url_table":
        overrides = ["candidates.path=pairs.parquet"]
    if "adopt" in values and "path" not in values["adopt"]:
        overrides = ["adopt.path=shards"]
    return load_run(RunFile, path, overrides)


def head_of(path):
    return path.read_text().split("\nname:")[0]


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_run_file_parses_and_its_head_is_a_claim(path):
    assert read(path).name
    for word in ("command:", "hardware:", "duration:", "result:"):
        assert word in head_of(path), f"the head of {path.name} has no {word}"


def test_there_are_run_files():
    found = {str(path.relative_to(CONFIGS)) for path in RUN_FILES}
    assert {"demo/run.yaml", "real/laion.yaml"} <= found
    assert {f"{each}.yaml" for each in LARGE} | {f"demo/{each}.yaml" for each in MODELS} <= found


@pytest.mark.parametrize(
    "path",
    [path for path in RUN_FILES if read(path).training_stages()],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_a_training_is_planned_and_its_head_says_the_plan(path):
    run = read(path)
    stage = run.training_stages()[-1][0]
    (found,) = trainings(run, Offer(GPUS["h100"], 2.5), (stage,))
    assert found.budget.parameters > 0
    assert found.fits is not False
    if path.stem in MODELS:
        assert f"{text.duration(found.wall_s)} " in head_of(path)
    if path.parent.name == "paper" and path.stem in HOURS:
        assert found.device_hours == pytest.approx(HOURS[path.stem], rel=0.05)


@pytest.mark.parametrize("name", LARGE)
def test_large_runs_pass_a_dry_run(name, tmp_path):
    weights = tmp_path / "weights"
    weights.write_bytes(b"never opened")
    shards = write_img2dataset(tmp_path / "shards", num_shards=1, per_shard=1)
    overrides = [f"adopt.path={shards}", f"output_dir={tmp_path / 'run'}"]
    if not name.endswith("/clip"):
        overrides.append(f"open_clip.weights_path={weights}")
    run = load_run(RunFile, CONFIGS / f"{name}.yaml", overrides)
    told = describe_run(run, None)
    for stage in ("curate", "clip", "embed", "select", *run.model_stages()):
        assert f"\n{stage} " in told


@pytest.mark.parametrize("name", SIZES)
def test_models_have_their_published_sizes(name):
    ((_, config),) = read(CONFIGS / f"{name}.yaml").training_stages()
    assert config.task.model == SIZES[name]


@pytest.mark.parametrize("name", TABLE_3)
def test_the_papers_files_train_as_the_paper_says(name):
    ((_, config),) = read(CONFIGS / f"paper/{name}.yaml").training_stages()
    batch, iterations, *rest = TABLE_3[name]
    assert (config.global_batch_size, config.samples) == (batch, batch * iterations)
    found = [config.learning_rate, config.weight_decay, config.betas[1], config.eps]
    assert [*found, config.ema_decay] == rest
    assert config.betas[0] == 0.9
    assert (config.decay, config.warmup_samples, config.grad_clip_norm) == ("none", 0, None)


def test_the_papers_drops_schedules_and_degradations():
    tasks = {
        name: read(CONFIGS / f"paper/{name}.yaml").training_stages()[0][1].task for name in TABLE_3
    }
    assert tasks["prior"].diffusion.prediction == "x_start"
    assert tasks["prior"].caption_drop_prob == tasks["prior_ar"].caption_drop_prob == 0.1
    assert (tasks["decoder"].z_img_drop_prob, tasks["decoder"].caption_drop_prob) == (0.1, 0.5)
    first, second = tasks["upsampler_64_256"], tasks["upsampler_256_1024"]
    assert (first.crop_px, first.diffusion.schedule) == (64, "cosine")
    assert (first.degradation.type, first.degradation.sigma) == ("blur", 0.6)
    assert (second.crop_px, second.diffusion.schedule) == (256, "linear")
    assert second.degradation.type == "bsr"


def test_the_demos_files_train_as_the_whole_demo_does():
    whole = dict(read(CONFIGS / "demo/run.yaml").training_stages())
    parts = [read(CONFIGS / f"demo/{model}.yaml") for model in MODELS if model != "prior_ar"]
    assert dict(run.training_stages()[-1] for run in parts) == whole


def test_the_papers_whole_run_trains_as_its_files_do():
    whole = dict(read(CONFIGS / "paper/run.yaml").training_stages())
    parts = [read(CONFIGS / f"paper/{model}.yaml") for model in MODELS if model != "prior_ar"]
    assert dict(run.training_stages()[-1] for run in parts) == whole
