"""Protocols stand beside a run: they train rivals, measure once, and leave the index as it was."""

import json
from pathlib import Path

import pytest

from jobs import command, evaluate
from pipeline import results, storage
from pipeline.chain import protocol_report, protocols
from pipeline.chain.plan import check_output_dir, recorded
from pipeline.errors import ConfigError, QualityError
from pipeline.evaluation import tasks
from pipeline.run_file import RunFile
from tests import tiny_stack
from tests.kept_run import make_run, said, without_ray
from tests.synthetic import DIM, train_config

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
SMALL = {
    "priors": {**FEW, "num_steps": 2, "num_averaged": 4, "num_pictures": 4},
    "decoder": {**FEW, "inversion_steps": [2, 4]},
    "upsamplers": {**FEW, "num_resamples": 100, "sampling": [{"num_steps": 2}]},
    "manipulations": {**FEW, "num_steps": 3, "sampling": {"upsamplers": [{"num_steps": 2}]}},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    monkeypatch.setattr(tasks, "map_partitions", lambda work, rows: map(work, rows))
    sections = {
        "rival_priors": [LINEAR],
        "decoder": train_config(task=DECODER).model_dump(mode="json"),
        "upsamplers": [train_config(task=UPSAMPLER).model_dump(mode="json")],
        "protocols": SMALL,
    }
    run = make_run(tmp_path, **sections)
    stack = tiny_stack.make_stack(tmp_path / "run")
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
    changed = table["protocols"]["manipulations"]["metrics"]
    assert changed["interpolation"]["interpolation_ends_largest_difference"]["value"] == 0
    assert changed["reconstruction"]["reconstruction_psnr_db"]["num"] == 8
    assert table["trainings"]["linear_prior"]["cpu_s"] >= 0
    report = Path(line["report_path"]).read_text()
    for text in ("Cosine to z_img", "z_txt", "data:image/png", "inversion", "interpolations"):
        assert text in report
    done = {
        path: path.stat().st_mtime_ns
        for path in Path(run.output_dir).rglob("*")
        if path.is_file() and not path.name.startswith("protocols.")
    }
    assert protocols.run_protocols(run, protocols.PROTOCOLS, said()) == line
    assert {path: path.stat().st_mtime_ns for path in done} == done


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


def test_bounds_of_what_was_measured_are_gates(run, capsys):
    bounds = {"gates": {"decoder_loss_as_is": 1e9, "prior_over_linear_prior": -5.0}}
    strict = run.model_copy(update={"protocols": run.protocols.model_copy(update=bounds)})
    line = protocols.run_protocols(strict, ["decoder"], said())
    (told,) = line["failed_gates"]  # the other one belongs to a protocol that was not asked for
    assert told.startswith("decoder_loss_as_is=")
    with pytest.raises(QualityError, match="decoder_loss_as_is"):
        command._stop_at_failed_gates(line)
    assert json.loads(capsys.readouterr().out)["failed_gates"] == [told]


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
