"""Enrichers that a package brings: installed as packages are, run through the whole stage."""

import io
import re
from pathlib import Path

import importlib_metadata  # noqa: F401 - replaces the standard library's finder, as MLflow's imports do
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import ConfigError, DataError
from pipeline.shards.reader import open_dataset
from tests.local_curation import curate_pictures, url_of
from tests.picture_corpus import saved

README = Path(__file__).resolve().parents[3] / "README.md"
PACKAGE = """
import pyarrow as pa

class Brightness:
    reads = ("image", "width")
    writes = {"brightness": pa.float32(), "drop_reason": pa.string()}

    def __init__(self, settings):
        self.least = settings["least"]

    def __call__(self, batch):
        assert all(i.width == w for i, w in zip(batch["image"], batch["width"], strict=True))
        means = [sum(i.resize((1, 1)).getpixel((0, 0))) / 3 for i in batch["image"]]
        return {
            "brightness": means,
            "drop_reason": [None if mean >= self.least else "too_dark" for mean in means],
        }

class Recaptioner:
    reads = ("captions", "brightness")
    writes = {"captions": pa.list_(pa.string()), "note": pa.string()}

    def __init__(self, settings):
        pass

    def __call__(self, batch):
        named = zip(batch["captions"], batch["brightness"], strict=True)
        texts = [[f"{t}, brightness {b:.0f}" for t in texts] for texts, b in named]
        return {"captions": texts, "note": [None] * len(texts)}

class Broken(Brightness):
    def __init__(self, settings):
        self.answer = settings["answer"]

    def __call__(self, batch):
        return self.answer

class Greedy(Brightness):
    reads = ("image", "no_such_column")

class Overwriting(Brightness):
    writes = {"width": pa.int32()}

class Mistyped(Brightness):
    writes = {"drop_reason": pa.int32()}
"""
NAMES = ("brightness", "recaptioner", "broken", "greedy", "overwriting", "mistyped")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with entry points, as an installer leaves it."""
    site = tmp_path / "site"
    info = site / "my_enrichers-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "my_enrichers.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-enrichers\nVersion: 1.2\n")
    lines = [f"{name} = my_enrichers:{name.capitalize()}" for name in NAMES]
    lines.append("contrast = my_package:Contrast")
    (info / "entry_points.txt").write_text(
        "\n".join(["[unclip_pipeline.enrichers]", *lines]) + "\n"
    )
    monkeypatch.syspath_prepend(str(site))


def picture(number):
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    buffer = io.BytesIO()
    coarse.resize((60, 40), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


PICTURES = {f"{number}.jpg": picture(number) for number in range(70)}


def using(name, **settings):
    return {"name": name, "version": "1.2", "settings": settings}


def brightness(body):
    pixel = Image.open(io.BytesIO(body)).convert("RGB").resize((1, 1)).getpixel((0, 0))
    return sum(pixel) / 3


LEAST = float(np.median([brightness(body) for body in PICTURES.values()]))


def test_a_filter_and_a_scorer_decide_and_leave_their_columns(package, tmp_path, monkeypatch):
    enrichers = [using("brightness", least=LEAST)]
    uri, result = curate_pictures(tmp_path, PICTURES, monkeypatch, enrichers=enrichers)
    dark = {name for name, body in PICTURES.items() if brightness(body) < LEAST}
    assert result.content["funnel"]["dropped"] == {"brightness_too_dark": len(dark)}
    samples = {sample.metadata["url"]: sample for sample in open_dataset(uri)}
    assert set(samples) == {url_of(name) for name in set(PICTURES) - dark}
    for name in set(PICTURES) - dark:
        found = samples[url_of(name)].metadata["brightness"]
        assert found == pytest.approx(brightness(PICTURES[name]), abs=1e-3)
    rows = pq.read_table(f"{uri}/rejects/index.parquet").to_pylist()
    assert {row["drop_reason"] for row in rows} == {"brightness_too_dark"}
    assert len(rows) == 12


def test_a_recaptioner_sees_earlier_columns_and_the_old_captions_stay(
    package, tmp_path, monkeypatch
):
    pictures = {name: PICTURES[name] for name in ("0.jpg", "1.jpg")}
    uri, _ = curate_pictures(
        tmp_path,
        pictures,
        monkeypatch,
        captions={"0.jpg": ["alpha one", "alpha two"]},
        enrichers=[using("brightness", least=0), using("recaptioner")],
    )
    sample = next(s for s in open_dataset(uri) if s.metadata["url"] == url_of("0.jpg"))
    old = sample.metadata["original_captions"]
    assert sorted(old) == ["alpha one", "alpha two"]
    end = f", brightness {brightness(PICTURES['0.jpg']):.0f}"
    assert list(sample.captions) == [text + end for text in old]
    assert sample.metadata["note"] is None
    assert sample.metadata["uids"] == sorted(sample.metadata["uids"])


def test_batches_and_buckets_change_nothing(package, tmp_path, monkeypatch):
    enrichers = [using("brightness", least=LEAST)]
    found = []
    for num_buckets in (1, 3):
        folder = tmp_path / str(num_buckets)
        uri, result = curate_pictures(
            folder, PICTURES, monkeypatch, num_buckets=num_buckets, enrichers=enrichers
        )
        members = {sample.key: sample.metadata for sample in open_dataset(uri)}
        found.append((members, result.content["funnel"]))
    assert found[0] == found[1]


def test_the_example_of_the_readme_works_as_it_stands(package, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    code = next(block for block in blocks if "class Contrast" in block)
    (tmp_path / "site" / "my_package.py").write_text(code)
    flat = Image.new("RGB", (60, 40), (90, 120, 150))
    pictures = PICTURES | {"flat.png": saved(flat, "PNG")}
    enrichers = [using("contrast", least=1.0)]
    uri, result = curate_pictures(tmp_path, pictures, monkeypatch, enrichers=enrichers)
    assert result.content["funnel"]["dropped"] == {"contrast_too_low": 1}
    assert all(sample.metadata["contrast"] >= 1 for sample in open_dataset(uri))


@pytest.mark.parametrize(
    ("enricher", "message"),
    [
        (using("nothing"), "'nothing' is not installed on this machine; the group .* has brightn"),
        (using("brightness") | {"version": "2"}, "version 2 is wanted, 1.2 is installed"),
        (using("greedy"), "greedy reads 'no_such_column'; there are image, captions, height"),
        (using("overwriting"), "overwriting writes 'width', which exists; choose a new name"),
        (using("mistyped"), "mistyped writes drop_reason as int32; it must be string"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_crawl(
    package, tmp_path, monkeypatch, enricher, message
):
    with pytest.raises(ConfigError, match=message):
        curate_pictures(tmp_path, PICTURES, monkeypatch, enrichers=[enricher])
    assert not (tmp_path / "curate").exists()


def test_two_enrichers_must_not_write_one_column(package, tmp_path, monkeypatch):
    twice = [using("brightness", least=0), using("broken", answer={})]
    with pytest.raises(ConfigError, match="broken writes 'brightness', which exists"):
        curate_pictures(tmp_path, PICTURES, monkeypatch, enrichers=twice)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"brightness": [1.0]}, r"wrote \['brightness'\], it declares \['brightness', 'drop_rea"),
        ({"brightness": [], "drop_reason": [None]}, "wrote 0 values of brightness for 1 pictures"),
        ({"brightness": ["x"], "drop_reason": [None]}, "brightness as float"),
        ({"brightness": [1.0], "drop_reason": ["Too dark"]}, "'Too dark' is not in snake_case"),
    ],
)
def test_an_enricher_is_held_to_what_it_declares(package, tmp_path, monkeypatch, answer, message):
    with pytest.raises(DataError, match=message):
        curate_pictures(
            tmp_path,
            {"0.jpg": PICTURES["0.jpg"]},
            monkeypatch,
            enrichers=[using("broken", answer=answer)],
        )
