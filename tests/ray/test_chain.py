"""The whole chain, small, through its command line, on a real local Ray."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.tiny_run import manifests, start, start_job, tiny_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
MODELS = ("clip", "prior", "decoder", "upsampler_16_64", "upsampler_64_256")


def finish(process, code=0):
    out, err = process.communicate(timeout=900)
    assert process.returncode == code, err[-4000:]
    return out, err


def descendants_named(mark):
    found = []
    for process in psutil.process_iter():
        try:
            if any(mark in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chain")


@pytest.fixture(scope="module")
def run_file(folder):
    return tiny_run(folder)


def test_ctrl_c_then_the_same_command_finishes(folder, run_file):
    output_dir = folder / "run"
    process = start(run_file)
    deadline = time.monotonic() + 300
    while not list(output_dir.glob("curate/*/shards")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1][-4000:]
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, err = finish(process, code=4)
    assert "interrupted" in err
    assert json.loads((output_dir / "result.json").read_text())["exit_code"] == 4
    assert not (output_dir / "lease.json").exists()
    assert descendants_named("pipeline.demo.server") == []
    assert descendants_named(str(folder)) == []
    assert [path for path in output_dir.rglob("*.tmp-*") if path.is_file()] == []

    out, _ = finish(start(run_file))
    line = json.loads(out.splitlines()[-1])
    assert line["num_pictures"] == 8
    assert Path(line["report_path"]).stat().st_size > 10_000
    for name in ("oracle_colour_accuracy", "oracle_colour_low95", "oracle_shape_accuracy"):
        assert 0 <= line[name] <= 1
    for name in ("wall_s", "peak_pss_bytes", "orchestration_s", "run_uri", "mlflow_uri"):
        assert line[name]


def test_the_same_command_skips_everything(folder, run_file):
    before = manifests(folder / "run")
    started = time.monotonic()
    out, err = finish(start(run_file))
    assert json.loads(out.splitlines()[-1])["stages_run"] == []
    assert err.count("finished before") == len(before) == 13
    assert manifests(folder / "run") == before
    assert time.monotonic() - started < 60


def test_a_deleted_training_stage_runs_again_and_nothing_else(folder, run_file):
    before = manifests(folder / "run")
    shutil.rmtree(folder / "run" / "prior")
    out, _ = finish(start(run_file))
    line = json.loads(out.splitlines()[-1])
    after = manifests(folder / "run")
    assert line["stages_run"] == ["prior"]
    assert after == before
    index = json.loads((folder / "run" / "run.json").read_text())
    assert set(index["stages"]) == set(before)


def test_a_report_that_a_dead_call_did_not_write_is_written(folder, run_file):
    report = folder / "run" / "report.html"
    report.unlink()
    finish(start(run_file))
    assert report.stat().st_size > 10_000


def test_a_pilot_curates_a_sample_in_a_folder_of_its_own(folder, run_file):
    before = manifests(folder / "run")
    out, err = finish(start(run_file, "--sample", "0.5", "--price-per-cpu-hour", "0.05"))
    line = json.loads(out.splitlines()[-1])
    assert (line["stages_run"], line["sample"]) == (["queries", "balance", "curate"], 0.5)
    place = folder / "run-sample-0.5"
    assert set(manifests(place)) == {"queries", "balance", "curate"}
    assert manifests(folder / "run") == before
    pilot = json.loads((place / "pilot.json").read_text())
    (whole,) = (folder / "run").glob("curate/*/manifest.json")
    funnel = json.loads(whole.read_text())["content"]["funnel"]
    kept = pilot["estimates"]["kept_pairs"]
    assert pilot["candidates"] == funnel["candidates"]
    # Copies that a sample does not see make the estimate an upper bound.
    assert kept["low95"] <= 1.1 * funnel["kept"]
    assert funnel["kept"] <= kept["high95"]
    assert pilot["estimates"]["cost"]["value"] > 0
    assert "pairs stand for" in err
    assert "What the whole run would give" in (place / "report.html").read_text()


def test_every_stage_is_tracked_once_under_one_parent(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/run/mlflow.db")
    experiment = client.get_experiment_by_name("unclip")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    children = {run.info.run_name for run in runs if run not in parents}
    assert children == set(manifests(folder / "run"))
    assert len(runs) == 14
    prior = next(run for run in runs if run.info.run_name == "prior")
    assert prior.info.status == "FINISHED"
    assert prior.data.tags["input.clip"] == manifests(folder / "run")["clip"]
    assert client.get_metric_history(prior.info.run_id, "loss")
    artifacts = {file.path for file in client.list_artifacts(prior.info.run_id)}
    assert {"config.json", "weights.safetensors"} <= artifacts


def test_another_runs_folder_is_refused_and_stays_as_it_is(folder, run_file):
    before = manifests(folder / "run")
    _, err = finish(start(run_file, "--set", "prior.seed=2"), code=2)
    assert "belongs to another run: prior.seed" in err
    assert "output_dir" in err
    assert manifests(folder / "run") == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("clip.sampels=3", ["unknown key clip.sampels", "did you mean clip.samples?"]),
        ("queries.sources=[{type: list, path: none.txt}]", ["none.txt"]),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(folder, run_file, override, words):
    place = folder / "never"
    options = ["--set", override, "--set", f"output_dir={place}"]
    _, err = finish(start(run_file, *options), code=2)
    assert len(err.strip().splitlines()) == 1
    for word in words:
        assert word in err
    assert not place.exists()


def test_a_dry_run_tells_everything_and_writes_nothing(folder, run_file):
    place = folder / "dry"
    out, _ = finish(start(run_file, "--dry-run", "--set", f"output_dir={place}"))
    for stage in ("queries", "balance", "curate", "clip", "upsampler_64_256", "evaluate"):
        assert stage in out
    assert "to do" in out
    assert not place.exists()


def test_the_trained_stack_draws_from_python(folder):
    from pipeline.generation.unclip import UnCLIP

    unclip = UnCLIP.from_run(str(folder / "run"))
    first, again = unclip("a red circle", seed=3), unclip("a red circle", seed=3)
    assert first.size == (256, 256)
    assert first.tobytes() == again.tobytes()


def test_the_trained_models_run_in_diffusers_and_come_back_as_a_run(folder, run_file):
    from diffusers import UnCLIPPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    stack = folder / "stack"
    options = ["--config", str(run_file), "--output", str(stack)]
    out, err = finish(start_job("jobs.export", *options))
    line = json.loads(out.splitlines()[-1])
    assert {name: len(sha) for name, sha in line["models"].items()} == dict.fromkeys(MODELS, 64)
    assert "differs: the pipeline draws one z_img, not the best of 2" in err
    pipeline = UnCLIPPipeline.from_pretrained(stack)
    pipeline.set_progress_bar_config(disable=True)
    steps = {f"{part}_num_inference_steps": 3 for part in ("prior", "decoder", "super_res")}
    pictures = pipeline(["a red circle", "a blue square"], **steps).images
    assert [picture.size for picture in pictures] == [(64, 64)] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()

    imported = {
        "name": "imported",
        "output_dir": str(folder / "imported"),
        "imported": {"format": "diffusers", "path": str(stack), "models": list(MODELS)},
        "generate": {
            "prompts": {"type": "inline", "texts": ["a red circle"]},
            "num_pictures": 2,
            "seed": 1,
            "prior": {"num_steps": 2},
            "decoder": {"num_steps": 2},
            "upsamplers": [{"num_steps": 1}, {"num_steps": 1}],
            "ablations": {"num_pictures": 0},
        },
    }
    again = folder / "imported.yaml"
    again.write_text(json.dumps(imported))
    out, _ = finish(start(again))
    line = json.loads(out.splitlines()[-1])
    assert line["stages_run"] == [*MODELS, "generate"]
    assert line["num_pictures"] == 2
