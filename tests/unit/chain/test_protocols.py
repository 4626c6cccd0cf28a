"""Protocols stand beside a run: they train rivals, measure once, and leave the index as it was."""

import json
from pathlib import Path

import pytest

from jobs import command, evaluate
from pipeline import results, storage
from pipeline.chain import model_page, protocol_report, protocols
from pipeline.chain.plan import check_output_dir, recorded
from pipeline.errors import ConfigError, QualityError
from pipeline.evaluation import tasks
from pipeline.generation.partition import PartitionMaker
from pipeline.generation.plan import plan
from pipeline.generation.prompts import Prompt
from pipeline.generation.run_stages import RunStages
from pipeline.run_file import RunFile
from tests import tiny_stack
from tests.kept_run import make_run, said, without_ray
from tests.synthetic import DIM, publish, train_config

SHAPE = {"embed_dim": DIM, "text_width": 8}
LINEAR = {"task": {"type": "linear_prior", "model": {"clip": SHAPE}}, "profile": "generative"}
UPSAMPLER = {
    "type": "upsampler",
    "model": tiny_stack.UPSAMPLER,
    "diffusion": tiny_stack.diffusion("x_start"),
    "view_px": 16,
    "crop_px": 8,
    "degradation": {"type": "blur"},
}
DECODER = {
    "type": "decoder",
    "model": tiny_stack.DECODER,
    "diffusion": tiny_stack.diffusion("eps"),
    "view_px": 16,
}
FEW = {"num_samples": 8, "batch_size": 4}
DRAWN = {
    **FEW,
    "num_pictures": 8,
    "num_resamples": 5,
    "sampling": {
        "prior": {"num_steps": 2},
        "decoder": {"num_steps": 2},
        "upsamplers": [{"num_steps": 2}],
    },
}
PROBES = [
    {"family": "place", "prompt": "a dog left of a cat", "rivals": ["a cat left of a dog"]},
    {"family": "place", "prompt": "a cat left of a dog", "rivals": ["a dog left of a cat"]},
    {"family": "words", "prompt": "a sign that says hello"},
]
SMALL = {
    "priors": {**FEW, "num_steps": 2, "num_averaged": 4, "num_pictures": 4},
    "decoder": {**FEW, "inversion_steps": [2, 4]},
    "upsamplers": {**FEW, "num_resamples": 100, "sampling": [{"num_steps": 2}]},
    "prior_importance": DRAWN,
    "guidance": {**DRAWN, "guidance_scales": [1.0, 3.0]},
    "typographic": {**DRAWN, "num_samples": 12, "classes": ["caption", "other"]},
    "probes": {**DRAWN, "num_each": 2, "probes": [{**each, "expect": "it"} for each in PROBES]},
    "memorisation": FEW,
    "manipulations": {**FEW, "num_steps": 3, "sampling": {"upsamplers": [{"num_steps": 2}]}},
}


def generated(uri, stack):
    """What ``generate`` leaves behind, made with an untrained stack."""
    prompts = [Prompt(f"picture {n}") for n in range(4)]
    maker = PartitionMaker(
        RunStages.of(stack), tiny_stack.generate_config(), (0.5,) * DIM, str(uri)
    )
    made = [maker.make(partition)["shard"] for partition in plan(prompts, 0, 4, seed=3)]
    return publish(str(uri), "generate", {"shards": made})


@pytest.fixture
def run(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    monkeypatch.setattr(tasks, "map_partitions", lambda work, rows: map(work, rows))
    sections = {
        "rival_priors": [LINEAR],
        "decoder": train_config(task=DECODER).model_dump(mode="json"),
        "upsamplers": [train_config(task=UPSAMPLER).model_dump(mode="json")],
        "protocols": {
            **SMALL,
            "side_by_side": {**DRAWN, "path": tiny_stack.make_run(tmp_path / "other", seed=1)},
        },
    }
    run = make_run(tmp_path, **sections)
    stack = tiny_stack.make_stack(tmp_path / "run")
    stack["generate"] = generated(tmp_path / "run" / "generate" / "000000000000", stack)
    index = results.read_index(run.output_dir)
    base = run.output_dir + "/"
    index["stages"] |= {name: r.uri.removeprefix(base) for name, r in stack.items()}
    storage.write_json(storage.join(run.output_dir, results.INDEX), index)
    return run


def test_all_protocols_measure_and_a_second_call_does_nothing(run):
    before = results.read_index(run.output_dir)
    line = protocols.run_protocols(run, protocols.PROTOCOLS, said())
    assert set(line["protocols"]) == set(protocols.PROTOCOLS)
    assert line["failed_gates"] == []
    assert results.read_index(run.output_dir)["stages"] == before["stages"]
    table = json.loads(Path(line["protocols_path"]).read_text())
    groups = table["protocols"]["priors"]["metrics"]
    over = groups["cosine_over_linear_prior"]
    arms = {name.removesuffix("_over_linear_prior") for name in over}
    ways = {"prior", "prior_best_of_2", "prior_mean_of_4"}
    assert arms == {"mean_z_img", "z_txt_itself", *ways}
    assert "cosine_over_linear_prior_with_residuals" in groups
    assert "prior_loss_rise_caption_shuffled" in groups["prior_conditions"]
    assert table["protocols"]["priors"]["models"]["linear_prior"]["num_parameters"] == 42
    decoder = table["protocols"]["decoder"]["metrics"]
    assert "inversion_4_steps_psnr_db" in decoder["inversion"]
    (upsampler,) = table["protocols"]["upsamplers"]["metrics"].values()
    assert any("frechet" in name for name in upsampler)
    measured = {name: found["metrics"] for name, found in table["protocols"].items()}
    check_drawn(measured)
    changed = table["protocols"]["manipulations"]["metrics"]
    assert changed["interpolation"]["interpolation_ends_largest_difference"]["value"] == 0
    assert changed["reconstruction"]["reconstruction_psnr_db"]["num"] == 8
    assert table["trainings"]["linear_prior"]["cpu_s"] >= 0
    report = Path(line["report_path"]).read_text()
    for text in ("cosine to z_img", "z_txt", "data:image/png", "inversion", "interpolations"):
        assert text in report
    done = {
        path: path.stat().st_mtime_ns
        for path in Path(run.output_dir).rglob("*")
        if path.is_file() and not path.name.startswith("protocols.")
    }
    assert protocols.run_protocols(run, protocols.PROTOCOLS, said()) == line
    assert {path: path.stat().st_mtime_ns for path in done} == done


def check_drawn(measured):
    """Every drawing protocol measured what it is about, with features and sizes in the names."""
    importance = measured["prior_importance"]
    below = {
        "z_txt_as_z_img_frechet_own_clip_below_caption_only",
        "full_stack_frechet_own_clip_below_caption_only",
    }
    assert below < set(importance["frechet_own_clip"])
    assert "caption_only_frechet_own_clip_8_to_8" in importance["frechet_own_clip"]
    assert {"kernel_distance_own_clip", "cmmd_own_clip", "precision_and_recall_own_clip"} < set(
        importance
    )
    values = {e["value"] for e in importance["frechet_own_clip"].values()}
    assert len(values) == 5  # three ways that differ, and two differences
    scores = measured["guidance"]["clip_score"]
    assert set(scores) == {
        f"{system}_{scale}_clip_score_own_clip_8"
        for system in ("unclip", "caption_only")
        for scale in (1, 3)
    }
    attack = measured["typographic"]["typographic_attack"]
    assert attack["after_taken_for_the_word"]["num"] == 12
    (found,) = measured["probes"].values()
    assert set(found) == {"place_right_by_own_clip_2_prompts"}
    assert measured["memorisation"]["memorisation"]["flagged_4"]["num"] == 4
    side = measured["side_by_side"]
    assert side["seconds_per_picture"]["other_run_seconds_per_picture"]["value"] > 0
    assert "this_run_clip_score_own_clip_above_other_run" in side["clip_score"]


def test_another_setting_or_rival_is_another_result_in_the_same_folder(run):
    first = protocols.run_protocols(run, ["priors"], said())
    values = json.loads(run.model_dump_json())
    values["rival_priors"] = [{**LINEAR, "task": {**LINEAR["task"]}}]
    values["rival_priors"][0]["task"]["model"] = {"clip": SHAPE, "ridge": 0.5}
    other = RunFile.model_validate(values)
    check_output_dir(other)
    again = protocols.run_protocols(other, ["priors"], said())
    assert again["protocols"] != first["protocols"]
    assert recorded(run)["prior"].stage == "prior"
    folders = sorted(path.name for path in (Path(run.output_dir) / "prior").iterdir())
    assert len(folders) == 3  # the run's own, and a rival of each run file


def test_what_earlier_calls_measured_stays_in_table_and_page(run):
    protocols.run_protocols(run, ["decoder"], said())
    line = protocols.run_protocols(run, ["memorisation"], said())
    assert list(line["protocols"]) == ["memorisation"]
    table = storage.read_json(line["protocols_path"])["protocols"]
    assert sorted(table) == ["decoder", "memorisation"]
    page = Path(line["report_path"]).read_text()
    assert "Decoder conditions" in page
    assert "Memorisation" in page


def test_bounds_of_what_was_measured_are_gates(run, capsys):
    bounds = {"gates": {"decoder_loss_as_is": 1e9, "prior_over_linear_prior": -5.0}}
    strict = run.model_copy(update={"protocols": run.protocols.model_copy(update=bounds)})
    line = protocols.run_protocols(strict, ["decoder"], said())
    (told,) = line["failed_gates"]  # the other one belongs to a protocol that was not asked for
    assert told.startswith("decoder_loss_as_is=")
    with pytest.raises(QualityError, match="decoder_loss_as_is"):
        command._stop_at_failed_gates(line)
    assert json.loads(capsys.readouterr().out)["failed_gates"] == [told]


def test_the_page_of_the_model_shows_what_was_measured_on_it_and_names_the_rest(run):
    with pytest.raises(ConfigError, match="holds nothing that was measured"):
        model_page.write_model_page(run, [], is_tracked=False)
    protocols.run_protocols(run, ["decoder", "memorisation"], said())
    bounds = run.protocols.model_copy(update={"gates": {"decoder_loss_as_is": 1e9}})
    strict = run.model_copy(update={"protocols": bounds})
    line = model_page.write_model_page(strict, ["run/card.html"], is_tracked=False)
    assert line["protocols"] == ["decoder", "memorisation"]
    page = Path(line["model_page"]).read_text()
    for text in (
        "Decoder conditions",
        "Memorisation",
        "Known limits",
        line["failed_gates"][0],
        "run/card.html",
        "not measured: python -m jobs.evaluate --protocol probes",
        "data:image/png",
    ):
        assert text in page
    # What was measured on another decoder says nothing about this one.
    index = results.read_index(run.output_dir)
    other = tiny_stack.make_stack(Path(run.output_dir).parent / "again", seed=5)["decoder"]
    index["stages"]["decoder"] = "../again/" + other.uri.rpartition("/again/")[2]
    storage.write_json(storage.join(run.output_dir, results.INDEX), index)
    assert list(protocol_report.finished_protocols(run.output_dir, recorded(run))) == [
        "memorisation"
    ]


def test_a_preview_names_the_trainings_and_writes_nothing(run):
    before = {path for path in Path(run.output_dir).rglob("*")}
    told = protocols.preview(run, ["priors"])
    assert [each["is_finished"] for each in told["rival_priors"]] == [False]
    assert {path for path in Path(run.output_dir).rglob("*")} == before
    protocols.run_protocols(run, ["priors"], said())
    again = protocols.preview(run, ["priors"])
    assert [each["is_finished"] for each in again["rival_priors"]] == [True]


def test_what_is_missing_is_named(run):
    index = results.read_index(run.output_dir)
    for name, words in (("decoder", "no decoder is finished"), ("clip", "no finished clip")):
        stages = {each: place for each, place in index["stages"].items() if each != name}
        where = storage.join(run.output_dir, results.INDEX)
        storage.write_json(where, {**index, "stages": stages})
        with pytest.raises(ConfigError, match=words):
            protocols.run_protocols(run, ["decoder"], said())


def test_the_job_offers_every_protocol():
    assert evaluate.PROTOCOLS == protocols.PROTOCOLS
    assert set(protocol_report.NOTES) >= {"cosine_to_z_img", "inversion"}
