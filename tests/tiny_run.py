"""The demo's run file cut down to a minute, and how tests start it and name its results."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from pipeline import results

ROOT = Path(__file__).resolve().parents[1]


def tiny_run(folder: Path) -> Path:
    """The demo's run file with every size and length cut down."""
    run = yaml.safe_load((ROOT / "jobs/configs/demo/run.yaml").read_text())
    run["output_dir"] = os.path.relpath(folder / "run", ROOT)  # as people write it
    run["candidates"] |= {"num_pictures": 160, "num_hosts": 12}
    run["queries"]["sources"] = [{"type": "captions", "max_words": 1, "min_count": 8}]
    run["balance"] |= {"per_query_limit": 60, "num_buckets": 4}
    run["clip"]["task"]["model"]["vision"] |= {"width": 32, "layers": 1, "heads": 1}
    run["clip"]["task"]["model"]["text"] |= {"layers": 1, "heads": 1}
    for section in [run["clip"], run["prior"], run["decoder"], *run["upsamplers"]]:
        section |= {"samples": 96, "global_batch_size": 32, "micro_batch_size": 16}
        section |= {"num_lanes": 2, "warmup_samples": 0}
        section["execution"] |= {"num_workers": 0, "threads": 1}
        # More than one checkpoint, so that one is deleted.
        section["execution"] |= {"checkpoint_every_s": 1e-3, "keep_checkpoints": 1}
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


def start(run_file, *options, env=None):
    return start_job("jobs.run", "--config", str(run_file), *options, env=env)


def start_job(job, *options, env=None):
    return subprocess.Popen(
        [sys.executable, "-m", job, *options],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def manifests(output_dir):
    found = {}
    for path in output_dir.glob("*/*/manifest.json"):
        result = results.read_result(str(path.parent))
        found[result.stage] = result.manifest_hash
    return found
