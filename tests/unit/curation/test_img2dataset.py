"""img2dataset itself, on a real server, in the place of our own crawl."""

import io
import json
import sys

import pytest
from PIL import Image

from pipeline import steps, storage
from pipeline.candidates import urls
from pipeline.config import semantic
from pipeline.curation import img2dataset_run
from pipeline.curation.img2dataset_config import Img2datasetConfig
from pipeline.curation.img2dataset_run import FOLDER, curate_by_img2dataset
from pipeline.curation.trace import trace
from pipeline.errors import ConfigError, DataError
from pipeline.progress import Progress
from pipeline.results import publish_result
from pipeline.runtime import prepare_environment
from pipeline.shards.reader import open_dataset
from pipeline.shards.verify import verify
from tests.fault_server import FaultServer, picture_bytes
from tests.local_curation import balanced_of, pair_of

pytestmark = pytest.mark.slow

NUM_GOOD, PER_SHARD = 9, 4
CONFIG = Img2datasetConfig.model_validate(
    {
        "trusts_every_address": True,
        "image_side_px": 32,
        "resize_mode": "keep_ratio_largest",
        "samples_per_shard": PER_SHARD,
        "views_px": [16],
        "execution": {"processes": 1, "threads": 4},
    }
)


@pytest.fixture(scope="module")
def world():
    prepare_environment()
    with FaultServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch):
    monkeypatch.setattr(steps, "map_partitions", lambda work, rows: map(work, rows))


def pairs_of(server):
    """Nine pictures, one of them with two captions, and what fails in each way."""
    address = f"http://127.0.0.1:{server.port}"
    pairs = [pair_of(f"{address}/colour/{n}.jpg", f"number {n}") for n in range(NUM_GOOD)]
    pairs.append(pair_of(f"{address}/colour/0.jpg", "number 0 again"))
    pairs += [pair_of(f"{address}/gone/{n}.jpg", f"gone {n}") for n in range(2)]
    pairs += [pair_of(f"{address}/page.jpg", each) for each in ("a page", "the same page")]
    return pairs


def run(balanced, folder, config=CONFIG):
    output = curate_by_img2dataset(config, balanced, str(folder), Progress(io.StringIO()))
    return publish_result(
        str(folder),
        stage="curate",
        identity="x",
        config=semantic(config),
        inputs={},
        content=output.content,
        circumstance={},
    )


@pytest.fixture(scope="module")
def curated(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    balanced = balanced_of(folder, pairs_of(world), 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "map_partitions", lambda work, rows: map(work, rows))
        return balanced, run(balanced, folder / "curate")


def test_every_pair_is_kept_or_has_img2datasets_reason(curated):
    funnel = curated[1].content["funnel"]
    assert funnel["candidates"] == NUM_GOOD + 1 + 2 + 2
    assert funnel["kept"] == NUM_GOOD + 1
    assert funnel["dropped"] == {"failed_to_download": 2, "failed_to_resize": 2}
    assert curated[1].content["num_samples"] == NUM_GOOD


def test_later_stages_see_a_data_set_that_verifies(curated):
    assert verify({"curate": curated[1]}, decode=True).problems == []
    found = list(open_dataset(curated[1].uri))
    assert len(found) == NUM_GOOD
    samples = {caption: sample for sample in found for caption in sample.captions}
    assert set(samples["number 0"].captions) == {"number 0", "number 0 again"}
    shown = samples["number 3"].image
    assert shown.size == (32, 24)
    sent = Image.open(io.BytesIO(picture_bytes((3 * 37 % 256, 3 * 91 % 256, 90))))
    for ours, theirs in zip(shown.getpixel((9, 9)), sent.getpixel((9, 9)), strict=True):
        assert abs(ours - theirs) <= 3


def test_uids_are_those_of_the_pairs(curated, world):
    balanced = {pair["uid"] for pair in pairs_of(world) if "number" in pair["caption"]}
    found = [sample.metadata for sample in open_dataset(curated[1].uri)]
    assert {uid for each in found for uid in each["uids"]} == balanced


def test_what_failed_is_told_in_img2datasets_words(curated, world):
    key = urls.url_id(f"http://127.0.0.1:{world.port}/gone/1.jpg")
    told = list(trace({"curate": curated[1]}, None, key=key))
    (row,) = [each for each in told if each.get("step") == "img2dataset"]
    assert (row["status"], row["kept"]) == ("failed_to_download", False)
    assert "410" in row["error_message"]


def test_img2dataset_was_never_imported_here(curated):
    assert not {"img2dataset", "albumentations"} & set(sys.modules)


def test_a_killed_download_goes_on_with_the_shards_that_are_missing(curated, world, tmp_path):
    balanced, first = curated
    folder = tmp_path / "curate"
    theirs = folder / FOLDER
    theirs.mkdir(parents=True)
    for path in sorted((storage.local_path(first.uri) / FOLDER).iterdir()):
        (theirs / path.name).write_bytes(path.read_bytes())
    (theirs / "00000_stats.json").unlink()  # killed before its end
    (theirs / "00000.tar").write_bytes(b"cut")
    whole = (theirs / "00001_stats.json").read_text()
    (theirs / "00001_stats.json").write_text(whole[:20])  # killed at its end
    world.reset()
    again = run(balanced, folder)
    assert again.content["funnel"] == first.content["funnel"]
    assert 0 < len(world.requests) <= 2 * PER_SHARD
    done = json.loads((theirs / "00001_stats.json").read_text())
    assert done["count"] == json.loads(whole)["count"]


def test_a_crawl_that_brings_nothing_says_why(world, tmp_path):
    pairs = [pair for pair in pairs_of(world) if "gone" in pair["url"]]
    with pytest.raises(DataError, match=r"none of 2 pairs: {'failed_to_download': 2}"):
        run(balanced_of(tmp_path, pairs, 1), tmp_path / "curate")


def test_an_object_store_is_refused(curated):
    with pytest.raises(ConfigError, match="local folder"):
        curate_by_img2dataset(CONFIG, curated[0], "s3://bucket/run", Progress(io.StringIO()))


def test_a_child_that_dies_names_the_remedy_and_its_log(curated, tmp_path, monkeypatch):
    monkeypatch.setattr(img2dataset_run, "_settings", lambda *_: {"nonsense": 1})
    with pytest.raises(DataError, match=r"(?s)0 of \d shards; run the same.*nonsense"):
        run(curated[0], tmp_path / "curate")
