"""Generate and evaluate a tiny run on a small data set, through Ray."""

import json
from dataclasses import replace

import pytest

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.evaluation.collect import RunDescription, collect, write_run_report
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.evaluate import EVALUATION, evaluate
from pipeline.evaluation.judges import KnownPicture, TestedJudge
from pipeline.evaluation.report import render
from pipeline.generation.batch import generate
from pipeline.generation.prompts import Prompt
from pipeline.progress import Progress
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from tests import tiny_stack
from tests.synthetic import make_curated, make_embedded, make_keep_list, publish

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

PROMPTS = [Prompt(f"a {c} shape", {"colour": c, "shape": None}) for c in ("red", "blue") * 3]
CONFIG = EvaluateConfig.model_validate(
    {
        "retrieval_gallery": 8,
        "num_nearest": 2,
        "num_shown": 3,
        "profile": "clip",
        "upsampling": {"num_pictures": 4},
        "gates": {"clip_retrieval_over_chance": 0.0, "colour_accuracy.low95": 2.0},
    }
)


def brightest_channel(picture):
    channels = picture.resize((1, 1)).getpixel((0, 0))
    return {"colour": ("red", None, "blue")[channels.index(max(channels))]}


@pytest.fixture(scope="module")
def cluster():
    prepare_environment()
    with ray_session(RayConfig(num_cpus=2)):
        yield


@pytest.fixture(scope="module")
def inputs(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    stack = tiny_stack.make_stack(folder)
    curated = make_curated(folder)
    keep_list = make_keep_list(folder, curated)
    entry = {**keep_list.entry, "name": "clip.parquet"}
    selected = publish(str(folder / "keep"), "select", {"profiles": {"clip": entry}})
    embedded = tiny_stack.with_clip(make_embedded(folder, curated), stack["clip"])
    results = {**stack, "curate": curated, "embed": embedded, "select": selected}
    uri = str(folder / "generate" / "0")
    config = tiny_stack.generate_config(
        prompts={"type": "held_out"}, num_pictures=6, ablations={"num_pictures": 4}
    )
    output = generate(config, results, PROMPTS, uri, Progress())
    results["generate"] = publish(uri, "generate", output.content)
    # The synthetic files name their own CLIP; evaluation reads them as they are.
    return {**results, "embed": make_embedded(folder, curated)}


@pytest.fixture(scope="module")
def evaluated(inputs, tmp_path_factory):
    from PIL import Image

    known = [KnownPicture(Image.new("RGB", (8, 8), c), {"colour": c}) for c in ("red", "blue")]
    uri = str(tmp_path_factory.mktemp("evaluate"))
    judge = TestedJudge(brightest_channel, known)
    output = evaluate(CONFIG, inputs, judge, uri, Progress())
    return uri, output, publish(uri, "evaluate", output.content)


def test_every_question_has_its_numbers(evaluated):
    _, output, _ = evaluated
    metrics = output.content["metrics"]
    assert metrics["accuracy"]["colour_accuracy"]["num"] == 6
    for kind in ("decoder", "caption_hidden", "mean_z_img", "mean_z_img_caption_hidden"):
        assert f"{kind}_colour_accuracy" in metrics["accuracy"]
    assert metrics["upsamplers"]["upsampler_8_16_psnr_db_over_bicubic"]["num"] == 4
    assert metrics["upsamplers"]["colour_lost_by_upsamplers"]["num"] == 6
    assert metrics["clip"]["clip_retrieval_over_chance"]["num"] == 8
    assert metrics["pictures"]["nearest_training_cosine"]["value"] <= 1
    assert output.content["confusions"]["judge"]["colour"]["counts"] == ((1, 0, 0), (0, 1, 0))
    assert output.content["failed_gates"] == [
        line for line in output.content["failed_gates"] if line.startswith("colour_accuracy.low95")
    ]
    assert len(output.work) > 6


def test_what_is_written_is_what_is_returned(evaluated):
    uri, output, _ = evaluated
    written = storage.read_json(storage.join(uri, EVALUATION))
    assert written == json.loads(json.dumps(output.content))


def test_neighbours_are_training_pictures_and_the_closest(evaluated, inputs):
    from pipeline.evaluation.gallery import read_gallery

    shown = read_gallery(storage.join(evaluated[0], "gallery.parquet"))
    assert [picture.prompt for picture in shown] == [p.text for p in PROMPTS[:3]]
    for picture in shown:
        cosines = [neighbour.cosine for neighbour in picture.nearest]
        assert cosines == sorted(cosines, reverse=True)
        assert len(cosines) == 2


def test_an_evaluation_done_before_is_read_and_not_repeated(evaluated, inputs):
    uri, output, _ = evaluated

    def fail(picture):
        raise AssertionError("a finished picture was judged again")

    judge = TestedJudge(fail, [])
    again = evaluate(CONFIG, inputs, judge, uri, Progress())
    assert again.content["metrics"] == output.content["metrics"]


def test_without_a_judge_the_rest_is_measured_and_the_reason_is_given(inputs, tmp_path):
    config = CONFIG.model_copy(update={"gates": {}})
    output = evaluate(config, inputs, None, str(tmp_path), Progress())
    assert output.content["metrics"]["accuracy"] == {}
    assert "no accuracy is claimed" in output.content["missing"]["accuracy"]
    assert output.content["metrics"]["clip"]


def test_an_unknown_profile_is_refused(inputs, tmp_path):
    config = CONFIG.model_copy(update={"profile": "none"})
    with pytest.raises(ConfigError, match="profile=none"):
        evaluate(config, inputs, None, str(tmp_path), Progress())


def test_the_report_shows_the_run(evaluated, inputs, tmp_path):
    results = {**inputs, "evaluate": evaluated[2]}
    records = {"prior": [{"samples_seen": 8, "loss": 2.0}, {"samples_seen": 16, "loss": 1.0}]}
    run = RunDescription("Tiny run", "for a test", [("Seed", "3")], records)
    uri = str(tmp_path / "report.html")
    write_run_report(run, results, uri)
    text = storage.read_bytes(uri).decode()
    for expected in ("Tiny run", "caption hidden from the decoder", "a red shape", "Fréchet"):
        assert expected in text
    data = collect(run, results)
    assert data.funnel.num_samples == inputs["curate"].content["num_samples"]
    assert len(data.kept) == 18


def test_a_run_that_only_curated_has_a_report_too(inputs):
    run = RunDescription("Half a run", "", [], {})
    data = collect(run, {"curate": replace(inputs["curate"])})
    assert data.funnel is not None
    text = render(data)
    assert 'id="funnel"' in text
    assert 'id="gallery"' not in text
    assert 'id="losses"' not in text


def test_too_many_actors_are_refused_before_the_graph_starts(inputs, tmp_path):
    config = tiny_stack.generate_config(execution={"num_actors": 2})
    stack = {**inputs, "embed": tiny_stack.with_clip(inputs["embed"], inputs["clip"])}
    with pytest.raises(ConfigError, match="must stay below the Ray cluster's 2 CPUs"):
        generate(config, stack, [], str(tmp_path), Progress())
