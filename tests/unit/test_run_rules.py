from pathlib import Path

import pytest
import yaml

from pipeline.chain.stages import stages
from pipeline.config import load_run
from pipeline.errors import ConfigError
from pipeline.run_file import RunFile

DEMO = Path(__file__).resolve().parents[2] / "jobs/configs/demo/run.yaml"
SECTIONS = [
    "candidates",
    "queries",
    "balance",
    "curate",
    "clip",
    "embed",
    "score",
    "select",
    "prior",
]

TRUSTED = "{trusts_every_address: true, image_side_px: 256, resize_mode: keep_ratio}"


def refusal(*overrides):
    with pytest.raises(ConfigError) as caught:
        load_run(RunFile, DEMO, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prior.profile=mine", ["prior.profile='mine'", "select.profiles"]),
        (
            "rival_priors.0.warm_start={path: a.safetensors}",
            ["rival_priors[0]", "from the beginning", "leave it out"],
        ),
        (
            "rival_priors=[{task: {type: linear_prior, model: {clip: {embed_dim: 64, "
            "text_width: 64}}}, profile: clip}]",
            ["rival_priors[0] reads", "prior reads", "the same profile"],
        ),
        (
            "rival_priors=[{task: {type: linear_prior, model: {clip: {embed_dim: 8, "
            "text_width: 64}}}, profile: generative}]",
            ["rival_priors[0].task.model.clip", "(8, 64)", "(64, 64)"],
        ),
        ("evaluate.profile=mine", ["evaluate.profile='mine'", "add it there"]),
        ("generate.upsamplers=[{}, {}, {}]", ["has 3 entries", "has 2 upsamplers"]),
        ("generate.decoder.num_steps=1001", ["decoder for num_steps=1001", "with 1000"]),
        ("decoder.task.model.clip.embed_dim=32", ["(32, 64)", "(64, 64)"]),
        ("curate.shards.views_px=[256]", ["decoder reads a 64 px view", "add it"]),
        ("candidates={type: warc, path: a.warc}", ["held_out", "use inline or file"]),
        ("curate.crawl.sha256_column=sha256", ["'sha256' is not in", "carried_columns=()"]),
        ("select=null", ["section clip needs select"]),
        (
            "select.profiles.generative.semantic_min_cosine=0.5",
            ["pairs begin at", "score.semantic"],
        ),
        ("select.profiles.generative.bounds={unsafe: {max: 0.5}}", ["'unsafe'", "score.heads"]),
        ("select.profiles.generative.max_overlap_bits=4", ["score.evaluation_sets"]),
        ("select.profiles.clip.min_similarity=0.2", ["two rules", "give one"]),
        ("score.columns=[similarity]", ["'similarity'", "name is taken"]),
        ("score.evaluation_sets={path: {path: a}}", ["'path' is no name", "lower-case"]),
        ("candidates=null", ["needs candidates"]),
        ("queries=null", ["starts with the section queries, or with adopt"]),
        (
            "adopt={type: webdataset, path: a.tar}",
            ["section adopt", "queries, candidates", "leave"],
        ),
        ("open_clip={model: ViT-B-32, weights_path: a.pt}", ["section open_clip", "has clip too"]),
        ("prior.task.type=clip", ["prior"]),
        (f"img2dataset={TRUSTED}", ["section img2dataset", "has curate too", "leave one out"]),
    ],
)
def test_sections_that_disagree_are_refused_with_value_rule_and_remedy(override, words):
    said = refusal(override)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("name=other", ["candidates.type=small_web", "use section curate"]),
        ("candidates={type: folder, path: .}", ["candidates.type=folder", "use section curate"]),
        ("img2dataset.trusts_every_address=false", ["trusts_every_address", "True"]),
        ("img2dataset.views_px=[256]", ["64 px view", "img2dataset.views_px=(256,)"]),
    ],
)
def test_img2dataset_takes_what_it_can_fetch_from_addresses_that_are_trusted(override, words):
    said = refusal("curate=null", f"img2dataset={TRUSTED}", override)
    for word in words:
        assert word in said


def test_img2dataset_fills_the_stage_curate(tmp_path):
    values = yaml.safe_load(DEMO.read_text())
    for name in ("curate", "generate", "evaluate"):
        del values[name]
    values["candidates"] = {"type": "url_table", "path": "urls.parquet"}
    values["img2dataset"] = yaml.safe_load(TRUSTED)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    run = load_run(RunFile, path)
    (stage,) = [each for each in stages(run) if each.name == "curate"]
    assert (stage.config, stage.inputs) == (run.img2dataset, ("balance",))
    assert run.views_px() == (64, 256)
    with pytest.raises(ConfigError, match="output_dir='s3://bucket/run' is none"):
        load_run(RunFile, path, ["output_dir=s3://bucket/run"])


def adopting(tmp_path, *dropped, **sections):
    values = yaml.safe_load(DEMO.read_text())
    for name in ("queries", "candidates", "balance", "curate", "generate", "evaluate", *dropped):
        del values[name]
    adopt = {"type": "webdataset", "path": "a.tar", "views_px": [64, 256]}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values | {"adopt": adopt} | sections))
    return path


def test_a_run_may_start_from_shards_and_from_a_clip_that_are_there(tmp_path):
    run = load_run(RunFile, adopting(tmp_path))
    names = [stage.name for stage in stages(run)]
    assert names[:5] == ["curate", "clip", "embed", "score", "select"]
    given = {"model": "ViT-B-32", "weights_path": "clip.pt"}
    run = load_run(RunFile, adopting(tmp_path, "clip", open_clip=given))
    assert [stage.name for stage in stages(run)] == names


def test_where_tars_and_weights_lie_is_no_part_of_what_they_give(tmp_path):
    given = {"model": "ViT-B-32", "weights_path": "clip.pt"}
    path = adopting(tmp_path, "clip", open_clip=given)
    moved = ["adopt.path=elsewhere.tar", "open_clip.weights_path=elsewhere.pt"]
    one, other = load_run(RunFile, path), load_run(RunFile, path, moved)
    for before, after in zip(stages(one), stages(other), strict=True):
        assert before.config == after.config
    changed = load_run(RunFile, path, ["adopt.keys=with_shard"])
    assert stages(changed)[0].config != stages(one)[0].config


def test_an_adopted_view_that_is_not_made_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"decoder reads a 64 px view, adopt\.views_px=\(256,\)"):
        load_run(RunFile, adopting(tmp_path), ["adopt.views_px=[256]"])


@pytest.mark.parametrize(
    ("last", "models"),
    [
        ("queries", []),
        ("balance", []),
        ("curate", []),
        ("select", ["clip"]),
        ("prior", ["clip", "prior"]),
    ],
)
def test_a_run_file_may_stop_after_a_section(last, models, tmp_path):
    values = yaml.safe_load(DEMO.read_text())
    wanted = {"name", "output_dir", *SECTIONS[: SECTIONS.index(last) + 1]}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if k in wanted}))
    run = load_run(RunFile, path)
    assert [name for name, _ in run.training_stages()] == models


AUTOREGRESSIVE = (
    "{type: autoregressive_prior, model: {clip: {embed_dim: 64, text_width: 64}, width: 128, "
    "layers: 4, head_width: 32}}"
)
LINEAR = (
    "prior={task: {type: linear_prior, model: {clip: {embed_dim: 64, text_width: 64}}}, "
    "profile: generative}"
)


def test_every_kind_of_prior_stands_in_its_section():
    steps = load_run(RunFile, DEMO, [f"prior.task={AUTOREGRESSIVE}"])
    assert steps.prior.task.type == "autoregressive_prior"
    closed = load_run(RunFile, DEMO, [LINEAR])
    assert closed.prior.task.type == "linear_prior"
    assert "prior" not in [name for name, _ in closed.training_stages()]
    assert "prior" in closed.model_stages()
    assert "prior" in [stage.name for stage in stages(closed)]


def test_a_run_without_a_prior_needs_a_decoder_without_embeddings_of_pictures():
    assert "section generate needs prior" in refusal("prior=null")
    for embedding in ("none", "z_txt"):
        changed = ["prior=null", f"decoder.task.model.embedding={embedding}"]
        run = load_run(RunFile, DEMO, changed)
        generated = next(stage for stage in stages(run) if stage.name == "generate")
        assert "prior" not in generated.inputs


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([LINEAR, "prior.profile=mine"], ["prior.profile='mine'", "add it there"]),
        ([LINEAR, "prior.task.model.clip.embed_dim=32"], ["prior.task.model.clip", "(32, 64)"]),
        ([LINEAR, "prior.samples=7"], ["unknown key prior.samples"]),
        (["prior.task.model.breadth=7"], ["unknown key prior.task.model.breadth", "width"]),
        ([f"prior.task={AUTOREGRESSIVE}", "decoder.task={type: linear_prior}"], ["decoder"]),
        (["clip.sam_rho=0.1"], ["sam_rho=0.1", "train CLIP with 2 workers"]),
    ],
)
def test_priors_that_do_not_fit_are_refused(overrides, words):
    said = refusal(*overrides)
    for word in words:
        assert word in said
