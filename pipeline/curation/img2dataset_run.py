"""The stage ``curate`` by img2dataset: balanced pairs → its shards → adopted as our own.

img2dataset runs in a process of its own, which ends with the stage whatever happens; what it leaves
in the stage's folder ``img2dataset`` is read as anybody else's shards are (``shards/adopt``):
hashed, decoded, given views and a manifest. Its tables say what became of every address, so every
pair is accounted for: its failures fall as ``failed_to_download`` and ``failed_to_resize``, its
words for them stay in the column ``error_message`` there.
``img2dataset_config`` says what it does not guarantee.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.candidates import schema
from pipeline.curation import img2dataset_child
from pipeline.curation.img2dataset_config import Img2datasetConfig
from pipeline.curation.limits import PAIRS
from pipeline.errors import ConfigError, DataError
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.shards import manifest
from pipeline.shards.adopt import adopt
from pipeline.shards.writer import publish_table, read_table

FOLDER, LISTS = "img2dataset", "lists"
CAPTIONS, STATUS = "captions", "status"
SUCCESS = "success"
LOST = "lost_by_img2dataset"
"""Addresses of which its tables say nothing: an error of its own struck between two of them."""
STATS = "_stats.json"
POLL_S = 0.2
LIST = pa.schema(
    [
        pa.field(schema.URL, pa.string()),
        pa.field(schema.CAPTION, pa.string()),
        pa.field(CAPTIONS, pa.list_(pa.string())),
        pa.field(schema.URL_ID, pa.string()),
        pa.field(schema.PAGE_URL, pa.string()),
        pa.field(schema.LICENCE, pa.string()),
    ]
)
"""What img2dataset is given: a row per address, with all captions of its pairs."""


def curate_by_img2dataset(
    config: Img2datasetConfig, balanced: Result, uri: str, progress: Progress
) -> StageOutput:
    """Download balanced pairs with img2dataset and adopt what comes. Ray is open already.

    Args:
        config: img2dataset's settings.
        balanced: The finished balance stage.
        uri: Folder of the stage, on this machine; shards finished there are kept.
        progress: Where people see how far it is.

    Returns:
        Content as ``adopt`` gives it, the funnel counted from the candidates on.

    Raises:
        ConfigError: The folder is on an object store.
        DataError: img2dataset left shards undone, or nothing was kept.
    """
    if not storage.is_local(uri):
        raise ConfigError(f"img2dataset writes to a local folder; output_dir leads to {uri}")
    stage = storage.local_path(uri)
    started_s = time.time()
    lists = _write_lists(balanced, stage / LISTS)
    num_shards = sum(-(-length // config.samples_per_shard) for length in lists)
    _download(config, stage, num_shards, progress)
    funnel = balanced.content["funnel"]
    failed = _failures(stage / FOLDER, funnel["kept"])
    if sum(failed.values()) == funnel["kept"]:
        raise DataError(
            f"img2dataset kept none of {funnel['kept']} pairs: {dict(failed)}; its tables in "
            f"{stage / FOLDER} say why: correct the cause, delete that folder and run again"
        )
    adopted = adopt(config.adopting(str(stage / FOLDER)), uri, progress)
    storage.remove_folder(str(stage / LISTS))
    theirs = adopted.content["funnel"]
    dropped = manifest.merge_counts([funnel["dropped"], failed, theirs["dropped"]])
    content = adopted.content | {
        "funnel": manifest.funnel(funnel["candidates"], theirs["kept"], dropped),
        "query_list": balanced.manifest["inputs"].get("queries"),
    }
    return StageOutput(content, [(started_s, time.time()), *adopted.work])


def what_it_says(stage_uri: str, url_id: str) -> Iterator[dict[str, Any]]:
    """The row of one address in img2dataset's tables, if there is one."""
    if not storage.is_local(stage_uri):
        return
    for path in sorted((storage.local_path(stage_uri) / FOLDER).glob("*.parquet")):
        columns = [schema.URL, "key", STATUS, "error_message"]
        filters = [(schema.URL_ID, "=", url_id)]
        yield from pq.read_table(path, columns=columns, filters=filters).to_pylist()


def _write_lists(balanced: Result, folder: Path) -> list[int]:
    """A list of addresses per bucket of pairs; its length. Names are those of every attempt.

    A bucket is in the order of addresses' hashes, so that hosts are mixed within it.
    """
    lengths = []
    for entry in balanced.content[PAIRS]:
        uri = storage.join(balanced.uri, PAIRS, entry["name"])
        if storage.sha256_of(uri) != entry["sha256"]:
            raise DataError(
                f"{uri} is not the file that its manifest names; delete the folder {balanced.uri} "
                "and run again"
            )
        rows: dict[str, dict[str, Any]] = {}
        for pair in read_table(uri).to_pylist():
            row = rows.setdefault(pair[schema.URL_ID], {**pair, CAPTIONS: []})
            row[CAPTIONS].append(pair[schema.CAPTION])
        table = pa.Table.from_pylist(list(rows.values()), schema=LIST)
        if table.num_rows:
            publish_table(str(folder / entry["name"]), table)
            lengths.append(table.num_rows)
    return lengths


def _download(config: Img2datasetConfig, stage: Path, num_shards: int, progress: Progress) -> None:
    """Run img2dataset until every shard has its statistics; those that have them stay."""
    folder = stage / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _end_earlier(folder)
    for path in _stats(folder):
        if not _is_whole(path):
            path.unlink()
    with progress.stage(FOLDER, total=num_shards, unit="shards") as bar:
        bar.to(len(_stats(folder)))
        if len(_stats(folder)) < num_shards:
            with _running(config, stage) as child:
                while child.poll() is None:
                    time.sleep(POLL_S)
                    bar.to(len(_stats(folder)))
        bar.to(len(_stats(folder)))
    if len(_stats(folder)) != num_shards:
        log = (stage / "img2dataset.log").read_text(errors="replace")
        raise DataError(
            f"img2dataset finished {len(_stats(folder))} of {num_shards} shards; run the same "
            f"command again, which does the others. The end of its log: {log[-1000:].strip()}"
        )


@contextmanager
def _running(config: Img2datasetConfig, stage: Path) -> Iterator[subprocess.Popen[bytes]]:
    """img2dataset at work; it and its processes are gone when the block ends, however that is."""
    settings = json.dumps(_settings(config, stage))
    command = [sys.executable, "-W", "ignore", "-m", img2dataset_child.__name__, settings]
    with open(stage / "img2dataset.log", "wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield child
        finally:
            _kill(psutil.Process(child.pid) if child.poll() is None else None)
            child.wait()


def _settings(config: Img2datasetConfig, stage: Path) -> dict[str, Any]:
    """Arguments of ``img2dataset.download``."""
    return {
        "url_list": str(stage / LISTS),
        "input_format": "parquet",
        "url_col": schema.URL,
        "caption_col": schema.CAPTION,
        "save_additional_columns": [CAPTIONS, schema.URL_ID, schema.PAGE_URL, schema.LICENCE],
        "output_folder": str(stage / FOLDER),
        "output_format": "webdataset",
        "image_size": config.image_side_px,
        "resize_mode": config.resize_mode,
        "resize_only_if_bigger": config.resize_only_if_bigger,
        "encode_quality": config.jpeg_quality,
        "min_image_size": config.min_side_px,
        "max_aspect_ratio": config.max_aspect_ratio,
        "timeout": config.timeout_s,
        "retries": config.retries,
        "user_agent_token": config.user_agent_token,
        "number_sample_per_shard": config.samples_per_shard,
        "extract_exif": False,  # where a picture was taken is nobody's business
        "processes_count": config.execution.processes,
        "thread_count": config.execution.threads,
    }


def _failures(folder: Path, num_pairs: int) -> Counter[str]:
    """Of so many pairs those that img2dataset did not keep, by its status."""
    pairs: Counter[str] = Counter()
    for path in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(path, columns=[STATUS, CAPTIONS]).to_pylist():
            pairs[row[STATUS]] += len(row[CAPTIONS])
    pairs[LOST] = num_pairs - sum(pairs.values())
    del pairs[SUCCESS]
    return +pairs


def _stats(folder: Path) -> list[Path]:
    return sorted(folder.glob("*" + STATS))


def _is_whole(path: Path) -> bool:
    """Whether statistics were written to their end."""
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def _end_earlier(folder: Path) -> None:
    """End an img2dataset that outlived a killed job and still writes to this folder."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if img2dataset_child.__name__ in command and str(folder) in command[-1]:
            _kill(process)


def _kill(process: psutil.Process | None) -> None:
    if process is None:
        return
    try:
        whole = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for each in whole:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(whole, timeout=10)
