"""The whole chain, small, through its command line, on a real local Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline import results

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]


def tiny_run(folder):
    """The demo's run file with every size and length cut down."""
    run = yaml.safe_load((ROOT / "jobs/configs/demo/run.yaml").read_text())
    run["output_dir"] = str(folder / "run")
    run["candidates"] |= {"num_pictures": 160, "num_hosts": 12}
    run["queries"]["sources"] = [{"type": "captions", "max_words": 1, "min_count": 8}]
    run["curate"]["balance"]["per_query_limit"] = 60
    run["curate"]["shards"] |= {"num_partitions": 4}
    run["clip"]["task"]["model"]["vision"] |= {"width": 32, "layers": 1, "heads": 1}
    run["clip"]["task"]["model"]["text"] |= {"layers": 1, "heads": 1}
    for section in [run["clip"], run["prior"], run["decoder"], *run["upsamplers"]]:
        section |= {"samples": 96, "global_batch_size": 32, "micro_batch_size": 16}
        section |= {"num_lanes": 2, "warmup_samples": 0}
        section["execution"] |= {"num_workers": 0, "threads": 1}
    run["clip"]["execution"]["num_workers"] = 2  # the contrast needs both workers' batches
    run["generate"] |= {"num_pictures": 8, "pictures_per_shard": 8, "batch_size": 8}
    run["generate"]["prior"] = {"num_steps": 2}
    run["generate"]["decoder"] = {"num_steps": 2}
    run["generate"]["upsamplers"] = [{"num_steps": 1}, {"num_steps": 1}]
    run["generate"]["ablations"] = {"num_pictures": 4}
    run["evaluate"] = {"upsampling": {"num_pictures": 4}, "num_shown": 4}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def start(run_file, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.run", "--config", str(run_file), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=900)
    assert process.returncode == code, err[-4000:]
    return out, err


def manifests(output_dir):
    found = {}
    for path in output_dir.glob("*/*/manifest.json"):
        result = results.read_result(str(path.parent))
        found[result.stage] = result.manifest_hash
    return found


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
    assert err.count("finished before") == len(before) == 11
    assert manifests(folder / "run") == before
    assert time.monotonic() - started < 60


def test_a_deleted_training_stage_runs_again_and_nothing_else(folder, run_file):
    before = manifests(folder / "run")
    shutil.rmtree(folder / "run" / "prior")
    out, _ = finish(start(run_file))
    line = json.loads(out.splitlines()[-1])
    after = manifests(folder / "run")
    if after["prior"] == before["prior"]:
        assert line["stages_run"] == ["prior"]
        assert after == before
    else:
        assert set(line["stages_run"]) <= {"prior", "generate", "evaluate"}


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
    assert len(runs) == 12
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
        ("candidates={type: url_table, path: none.parquet}", ["none.parquet"]),
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
    for stage in ("queries", "curate", "clip", "upsampler_64_256", "evaluate"):
        assert stage in out
    assert "to do" in out
    assert not place.exists()


def test_the_trained_stack_draws_from_python(folder):
    from pipeline.generation.unclip import UnCLIP

    unclip = UnCLIP.from_run(str(folder / "run"))
    first, again = unclip("a red circle", seed=3), unclip("a red circle", seed=3)
    assert first.size == (256, 256)
    assert first.tobytes() == again.tobytes()
