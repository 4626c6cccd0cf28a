import json
from pathlib import Path

import pytest

from jobs import plan as job
from jobs.command import show_job
from pipeline import results, storage
from pipeline.config import load_run
from pipeline.errors import ConfigError
from pipeline.gpus import GPUS
from pipeline.planning import text
from pipeline.planning.data import EMBEDDING_EXTRA_BYTES, reading, stored, view_rate
from pipeline.planning.offers import Offer, offer
from pipeline.planning.trainings import trainings
from pipeline.run_file import RunFile
from tests.well_formed import Checker

CONFIGS = Path(__file__).resolve().parents[3] / "jobs/configs"
H100 = Offer(GPUS["h100"], 2.5)
OPTIONS = {
    "gpu": "h100",
    "gpu_price": None,
    "mfu": None,
    "hours_between_failures": None,
    "restart_s": 300.0,
    "seed": 0,
}


def run_of(name, *overrides):
    return load_run(RunFile, CONFIGS / f"{name}.yaml", overrides)


def test_price_share_and_peak_scale():
    run = run_of("demo/run", "decoder.execution.gpus_per_worker=1", "decoder.precision=bfloat16")

    def planned(gpu, price, mfu):
        (found,) = trainings(run, Offer(GPUS[gpu], price, mfu=mfu), ("decoder",))
        return found

    base, half, other = (
        planned("h100", 2.5, 0.4),
        planned("h100", 5.0, 0.2),
        planned("a100", 2.5, 0.4),
    )
    by_hand = base.budget.training_flops * base.config.samples / (0.4 * 989e12) / 3600
    assert base.device_hours == pytest.approx(by_hand)
    assert base.wall_s == pytest.approx(3600 * base.device_hours / base.workers)
    assert half.device_hours == pytest.approx(2 * base.device_hours)
    assert half.dollars == pytest.approx(4 * base.dollars)
    assert other.device_hours / base.device_hours == pytest.approx(989 / 312)
    assert base.fits


def test_what_does_not_fit_is_said_with_a_remedy(capsys):
    arguments = ["--config", str(CONFIGS / "demo/run.yaml"), "--gpu", "l40s", "--stage", "prior"]
    for change in (
        "execution.gpus_per_worker=1",
        "micro_batch_size=65536",
        "global_batch_size=65536",
    ):
        arguments += ["--set", f"prior.{change}"]
    arguments += ["--set", "prior.num_lanes=1", "--set", "output_dir=none"]
    assert show_job("", job.show, job.add_options, arguments) == 0
    told = capsys.readouterr()
    assert "do not fit a l40s; lower micro_batch_size, or set execution.strategy" in told.err
    assert json.loads(told.out)["trainings"][0]["fits"] is False


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpu": "h1000"}, "--gpu h1000: not in the table, which has a100"),
        ({"mfu": 40.0}, "--mfu 40"),
        ({"gpu_price": -1.0}, "--gpu-price -1: must be above 0"),
        ({"hours_between_failures": 0.0}, "--hours-between-failures 0"),
    ],
)
def test_senseless_offers_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        offer(run_of("demo/run"), OPTIONS | changes)


def test_a_stage_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="--stage prior: this run file trains decoder"):
        trainings(run_of("paper/decoder"), H100, ("prior",))
    with pytest.raises(ConfigError, match="trains nothing in steps"):
        trainings(run_of("karlo/generate"), H100)


def test_files_by_rule():
    run = run_of("demo/run", "output_dir=none")
    rows = {row.what: row for row in stored(run, 1000)}
    assert rows["views of 64 px"].num_bytes == 1000 * view_rate(64)[0]
    assert rows["embeddings"].bytes_per_picture == 4 * 64 + EMBEDDING_EXTRA_BYTES
    assert all(row.num_bytes is None for row in stored(run, None))
    assert view_rate(128)[0] == pytest.approx(4 * view_rate(64)[0], rel=0.6)


def test_files_that_are_there_are_counted(tmp_path):
    run = run_of("demo/run", f"output_dir={tmp_path}")
    views = {"64": [{"num_bytes": 700}], "256": [{"num_bytes": 900}, {"num_bytes": 100}]}
    contents = {
        "curate": {"num_samples": 10, "shards": [{"num_bytes": 5000}], "views": views},
        "embed": {"num_samples": 10, "shards": [{"name": "a.parquet"}]},
    }
    for stage, content in contents.items():
        (tmp_path / stage).mkdir()
        manifest = {"schema_version": results.SCHEMA_VERSION, "stage": stage, "content": content}
        storage.write_json(str(tmp_path / stage / results.MANIFEST), manifest)
    (tmp_path / "embed/a.parquet").write_bytes(bytes(60))
    storage.write_json(
        str(tmp_path / results.INDEX), {"stages": {"curate": "curate", "embed": "embed"}}
    )
    rows = {
        row.what: (row.num_bytes, row.bytes_per_picture, row.is_counted) for row in stored(run, 7)
    }
    assert rows == {
        "shards": (5000, 500, True),
        "views of 64 px": (700, 70, True),
        "views of 256 px": (1000, 100, True),
        "embeddings": (60, 6, True),
    }


def test_reading_follows_the_rate_of_the_training():
    run = run_of("demo/run", "output_dir=none")
    (prior,) = trainings(run, H100, ("prior",))
    files = stored(run, 1000)
    found = reading(run, prior, files, 1000)
    assert found.bytes_per_s == pytest.approx(
        prior.samples_per_s * (4 * 64 + EMBEDDING_EXTRA_BYTES)
    )
    assert found.passes == prior.config.samples / 1000
    (decoder,) = trainings(run, H100, ("decoder",))
    assert reading(run, decoder, files, None).passes is None
    assert reading(run, decoder, files, None).cores > 0


def test_the_job_prints_tables_one_object_and_a_page(tmp_path, capsys):
    output = tmp_path / "plan.html"
    arguments = ["--config", str(CONFIGS / "demo/upsampler_64_256.yaml"), "--output", str(output)]
    assert show_job("", job.show, job.add_options, [*arguments, "--pictures", "1000000"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out.splitlines()[-1])
    assert [each["stage"] for each in found["trainings"]] == ["clip", "upsampler_16_64"]
    assert set(found["failures"]["by_devices"]) == {str(2**power) for power in range(11)}
    assert found["data"][0]["bytes"] == 1e6 * view_rate(64)[0]
    assert "An interruption per 50,677 device hours" in told.err
    checker = Checker()
    checker.feed(output.read_text())
    assert not checker.open
    assert "svg" in checker.tags
    assert list(tmp_path.iterdir()) == [output], "nothing else is written"


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.5, "0.5 s"), (119, "119 s"), (7199, "120 min"), (86_400, "24 h")]
)
def test_durations(seconds, told):
    assert text.duration(seconds) == told
