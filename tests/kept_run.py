"""A run folder with a small data set, its embeddings and keep-lists, and how tests work on it."""

import contextlib
import io
from contextlib import ExitStack
from pathlib import Path

from pipeline import results, runtime, steps, storage
from pipeline.chain import removal
from pipeline.chain import run as chain
from pipeline.chain.plan import recorded, run_config
from pipeline.progress import Progress
from pipeline.results import Result
from pipeline.run_file import RunFile
from pipeline.shards import keep_list, removals
from pipeline.tracking import StageRun, Tracking
from tests.synthetic import make_curated, make_embedded, train_config

SPLIT = {"seed": 3, "validation_share": 0.2, "test_share": 0.1}


def without_ray(monkeypatch):
    """Partitions run in this process, one after the other."""
    for module in (removals, steps):
        monkeypatch.setattr(module, "map_partitions", lambda work, rows: map(work, rows))
    monkeypatch.setattr(chain, "_refuse_sqlite_on_several_nodes", lambda uri: None)
    monkeypatch.setattr(chain, "Tracking", Untracked)  # an MLflow database takes ten seconds
    on_open_ray(monkeypatch)


class Untracked(Tracking):
    """A run that nobody is told of."""

    def __init__(self, config, output_dir, name, say):
        pass

    def start(self):
        pass

    def stage(self, name, identity, tags, upstream):
        return UntrackedStage()

    def finish(self, status, metrics, artifacts):
        pass


class UntrackedStage(StageRun):
    run_id = "none"

    def __init__(self):
        pass

    def log_config(self, config):
        pass

    def finish(self, status, metrics, artifacts):
        pass


def on_open_ray(monkeypatch):
    """Jobs take the cluster that a fixture opened."""
    monkeypatch.setattr(runtime, "ray_session", lambda config: contextlib.nullcontext())


def said():
    return Progress(io.StringIO())


def run_file(folder: Path, **sections) -> RunFile:
    """A run of adopted shards; its first stages are made by ``make_run``."""
    prior = train_config().model_dump(mode="json")
    values = {
        "name": "kept",
        "output_dir": str(folder / "run"),
        "adopt": {"type": "webdataset", "path": str(folder / "none"), "views_px": [16]},
        "open_clip": {"model": "ViT-B-32", "weights_path": str(folder / "none.safetensors")},
        "embed": {"batch_size": 4, "execution": {"num_actors": 1, "threads_per_actor": 1}},
        "select": {
            "split": SPLIT,
            "profiles": {"generative": {"min_similarity": 0.5}, "all": {}},
        },
        "prior": prior,
    }
    return RunFile.model_validate(values | sections)


def make_run(folder: Path, num_samples=60, first=0, **sections) -> RunFile:
    """A run whose data set, embeddings and keep-lists are finished."""
    run = run_file(folder, **sections)
    finish_run(run, make_curated(folder / "run", num_samples, first=first))
    return run


def finish_run(run: RunFile, curated: Result) -> None:
    """Embeddings and keep-lists of a data set in the run's folder, and the index."""
    folder = Path(run.output_dir).parent
    embedded = make_embedded(folder / "run", curated)
    known = {"curate": curated, "embed": embedded}
    places = {name: result.uri.removeprefix(f"{folder}/run/") for name, result in known.items()}
    index = {"name": run.name, "config": run_config(run), "stages": places, "upsamplers": []}
    storage.write_json(storage.join(run.output_dir, results.INDEX), index)
    with ExitStack() as stack:
        removal.select_on(run, known, said(), stack)


def selected(run):
    return recorded(run)["select"]


def rows_of(run, profile="all"):
    """Every row of the current keep-list, by key."""
    keep = keep_list.keep_list(selected(run), profile)
    shards = range(len(keep.entry["shards"]))
    return {row["key"]: row for shard in shards for row in keep.table(shard).to_pylist()}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
