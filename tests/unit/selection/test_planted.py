"""What was planted is found: near-duplicates, evaluation pictures, marks, a biased filter.

Precision and recall of each are stated in the tests; partitions of shards and of work leave no
trace.
"""

import ast
import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from pipeline import steps, storage
from pipeline.errors import ConfigError, DataError
from pipeline.identity import fingerprint
from pipeline.queries import balancing
from pipeline.queries.config import BalanceConfig
from pipeline.selection.evaluation_sets import sets_hash
from pipeline.selection.heads import write_head
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import splits_of
from pipeline.shards.score_files import PAIRS, ScoredDataset
from pipeline.shards.select_config import SplitConfig
from pipeline.shards.verify import verify
from tests import scoring
from tests.synthetic import sample_key

NUM = 200
SAME = 0.998
"""Cosine from which on two pictures of these are the same to this CLIP."""
SEMANTIC = {"floor": 0.995, "num_clusters": 4, "n_probe": 2, "seed": 1}


def marked(image):
    """A picture that somebody wants to find: striped."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for row in range(4):
        draw.rectangle((0, 24 * row, 96, 24 * row + 11), fill=(250, 220, 0) if row % 2 else "black")
    return image


class Planted:
    """200 pictures; of 40 a smaller copy, badly compressed; 40 striped; 20 of evaluation sets."""

    def __init__(self):
        self.keys = [sample_key(number) for number in range(NUM + 80)]
        originals = [scoring.make_picture(number) for number in range(NUM)]
        copies = [image.resize((72, 72)) for image in originals[:40]]
        striped = [marked(scoring.make_picture(1000 + number)) for number in range(40)]
        encoded = [scoring.jpeg(image) for image in originals]
        encoded += [scoring.jpeg(image, 40) for image in copies]
        encoded += [scoring.jpeg(image) for image in striped]
        self.pictures = dict(zip(self.keys, encoded, strict=True))
        self.copies = set(self.keys[NUM : NUM + 40])
        self.striped = set(self.keys[NUM + 40 :])
        self.held_out = set(self.keys[100:120])
        rng = np.random.default_rng(0)
        self.queries = {
            key: sorted(
                rng.choice(8, rng.integers(0, 4), p=np.arange(1, 9) / 36, replace=False).tolist()
            )
            for key in self.keys
        }


@pytest.fixture(scope="module")
def planted():
    return Planted()


@pytest.fixture(scope="module")
def sets(planted, tmp_path_factory):
    """Evaluation sets of three kinds: a folder, a tar, a Parquet file; also strangers."""
    folder = tmp_path_factory.mktemp("sets")
    images = [Image.open(io.BytesIO(planted.pictures[key])) for key in planted.keys[100:120]]
    (folder / "faces").mkdir()
    for number, image in enumerate(images[:8]):
        (folder / "faces" / f"{number}.jpg").write_bytes(scoring.jpeg(image.resize((80, 80)), 50))
    (folder / "faces" / "damaged.jpg").write_bytes(b"\xff\xd8 no picture")
    with tarfile.open(folder / "cropped.tar", "w") as tar:
        for number, image in enumerate(images[8:16]):
            content = scoring.jpeg(image.crop((2, 2, 94, 94)))
            info = tarfile.TarInfo(f"{number:04d}.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    strangers = [scoring.make_picture(5000 + number) for number in range(10)]
    rows = [{"image": {"bytes": scoring.jpeg(image, 60)}} for image in [*images[16:], *strangers]]
    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    return {
        "faces": {"path": str(folder / "faces")},
        "cropped": {"path": str(folder / "cropped.tar")},
        "mixed": {"paths": [str(folder / "table.parquet")]},
    }


@pytest.fixture(scope="module")
def head(planted, tmp_path_factory):
    """A linear head that learnt stripes from other pictures, through the same CLIP."""
    folder = tmp_path_factory.mktemp("head")
    images = [scoring.make_picture(2000 + number) for number in range(240)]
    labels = np.arange(240) % 2 == 0
    named = {
        sample_key(9000 + n): scoring.jpeg(marked(image) if labels[n] else image)
        for n, image in enumerate(images)
    }
    data = scoring.make_data(folder, named, per_shard=300)
    embedded = EmbeddedDataset(data["embed"], CuratedDataset(data["curate"]))
    keys = embedded.table(0, ["key"])["key"].to_pylist()
    z_img = embedded.z_img(0).astype(np.float64)
    y = np.array([labels[[*named].index(key)] for key in keys]) * 2.0 - 1
    mean, scale = z_img.mean(axis=0), z_img.std(axis=0)
    x = np.concatenate([(z_img - mean) / scale, np.ones((len(y), 1))], axis=1)
    solved = np.linalg.solve(x.T @ x + np.eye(65), x.T @ y)
    weight = 4 * solved[:-1] / scale
    bias = 4 * solved[-1:] - weight @ mean
    uri = str(folder / "stripes.safetensors")
    layers = [(weight[None].astype(np.float32), bias.astype(np.float32))]
    write_head(
        uri,
        layers,
        scale="raw",
        activation="none",
        output="sigmoid",
        calibration="probability",
        clip_sha256=data["clip"].content["weights"]["sha256"],
    )
    return uri


@pytest.fixture(scope="module")
def data(planted, sets, head, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    inputs = scoring.make_data(folder, planted.pictures, queries=planted.queries)
    section = {"heads": {"unsafe": {"path": head}}, "evaluation_sets": sets, "semantic": SEMANTIC}
    with pytest.MonkeyPatch.context() as patch:
        scoring.in_this_process(patch)
        inputs["score"] = scoring.scored(inputs, folder / "score", **section)
    return {**inputs, "section": section}


def inputs_of(data):
    return {name: data[name] for name in ("curate", "clip", "embed", "score")}


def dropped(data, uri, profile, reason):
    _, rows = scoring.selected(inputs_of(data), uri, {"p": profile})
    return {row["key"] for row in rows["p"] if row["drop_reason"] == reason}


def test_copies_are_found_and_the_larger_picture_stays(data, planted, tmp_path):
    # Stripes hide half of a picture, so those resemble each other.
    profile = {"semantic_min_cosine": SAME, "bounds": {"unsafe": {"max": 0.5}}}
    found = dropped(data, tmp_path, profile, "semantic_duplicate")
    assert len(found & planted.copies) / len(planted.copies) >= 0.95  # recall
    assert len(found & planted.copies) / len(found) >= 0.9  # precision


def test_pairs_are_sorted_unique_and_those_of_brute_force(data):
    scored = ScoredDataset(data["score"], CuratedDataset(data["curate"]))
    (part,) = scored.pairs(SEMANTIC["floor"])
    pairs = list(zip(part[0].tolist(), part[1].tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert all(a < b for a, b in pairs)
    embedded = EmbeddedDataset(data["embed"], CuratedDataset(data["curate"]))
    z_img = np.concatenate([embedded.z_img(shard) for shard in range(6)]).astype(np.float64)
    z_img /= np.linalg.norm(z_img, axis=1, keepdims=True)
    cosines = z_img @ z_img.T
    for (a, b), cosine in zip(pairs, part[2].tolist(), strict=True):
        assert cosine == pytest.approx(cosines[a, b], abs=1e-5)
    first, second = np.nonzero(np.triu(cosines > SEMANTIC["floor"] + 1e-6, 1))
    expected = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(expected & set(pairs)) / len(expected) > 0.9  # borders of clusters hide some
    assert next(iter(scored.pairs(0.9999)))[2].min() >= np.float32(0.9999)


@pytest.mark.parametrize(
    ("profile", "recall"),
    [({"max_overlap_bits": 8}, 0.7), ({"min_overlap_cosine": SAME}, 0.95)],
    ids=["pHash", "embedding"],
)
def test_evaluation_pictures_are_found(data, planted, tmp_path, profile, recall):
    found = dropped(data, tmp_path, profile, "evaluation_overlap")
    assert len(found & planted.held_out) / len(planted.held_out) >= recall
    assert len(found & planted.held_out) / len(found) >= 0.95  # precision


def test_overlaps_name_their_set_and_sets_are_told_in_the_manifest(data, planted):
    scored = ScoredDataset(data["score"], CuratedDataset(data["curate"]))
    rows = [row for shard in range(6) for row in scored.table(shard).to_pylist()]
    names = {row["key"]: row["overlap_set"] for row in rows}
    expected = ["faces"] * 8 + ["cropped"] * 8 + ["mixed"] * 4
    found = [names[key] for key in planted.keys[100:120]]
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 19
    told = data["score"].content["evaluation_sets"]
    counts = {name: (each["num_pictures"], each["num_damaged"]) for name, each in told.items()}
    assert counts == {"faces": (8, 1), "cropped": (8, 0), "mixed": (14, 0)}
    assert data["score"].content["histograms"]["overlap_bits"]["num_missing"] == 0


def test_marks_are_found_by_a_head(data, planted, tmp_path):
    profile = {"bounds": {"unsafe": {"max": 0.5}}}
    found = dropped(data, tmp_path, profile, "out_of_bounds_unsafe")
    assert len(found & planted.striped) / len(planted.striped) >= 0.95  # recall
    assert len(found & planted.striped) / len(found) >= 0.9  # precision


def test_weights_undo_a_filter_that_took_stripes(data, planted, tmp_path):
    gone = sorted(planted.striped)[:30]
    profile = {"reweight": {"seed": 1, "ridge": 5.0}}
    _, rows = scoring.selected(inputs_of(data), tmp_path, {"p": profile}, remove_keys=gone)
    kept = [row for row in rows["p"] if row["kept"]]
    total = sum(row["weight"] for row in kept)
    striped = sum(row["weight"] for row in kept if row["key"] in planted.striped)
    assert total / len(kept) == pytest.approx(1.0, abs=1e-5)
    assert 10 / len(kept) < 0.05
    assert 0.09 < striped / total < 0.2  # 40 / 280 before the filter
    assert {row["weight"] for row in rows["p"] if not row["kept"]} == {0.0}


EVERYTHING = {
    "top_share": 0.9,
    "min_side_px": 72,
    "bounds": {"unsafe": {"max": 0.9}},
    "max_overlap_bits": 6,
    "min_overlap_cosine": 0.999,
    "semantic_min_cosine": SAME,
    "max_per_query": 12,
    "reweight": {"seed": 1},
}


def test_shards_and_buckets_leave_no_trace(data, planted, tmp_path, monkeypatch):
    """Other shards give the same fate to every sample; other cuts of the work the same bytes."""
    scoring.in_this_process(monkeypatch)
    _, rows = scoring.selected(inputs_of(data), tmp_path / "a", {"p": EVERYTHING})
    reasons = {row["drop_reason"] for row in rows["p"]}
    assert reasons >= {None, "low_similarity", "semantic_duplicate", "over_query_limit"}
    semantic = {**SEMANTIC, "execution": {"memory_bytes": 1 << 20}}
    section = {**data["section"], "semantic": semantic}
    monkeypatch.setattr(steps, "map_partitions", lambda work, rows: map(work, reversed(rows)))
    monkeypatch.setattr("pipeline.selection.semantic.num_buckets", lambda *_: 3)
    cut = scoring.scored(data, tmp_path / "cut", **section)
    assert cut.content == data["score"].content
    other = scoring.make_data(
        tmp_path / "other", planted.pictures, per_shard=33, queries=planted.queries
    )
    other["score"] = scoring.scored(other, tmp_path / "other" / "score", **section)
    _, again = scoring.selected(other, tmp_path / "b", {"p": EVERYTHING})
    for one, two in zip(rows["p"], again["p"], strict=True):
        assert one["weight"] == pytest.approx(two["weight"], rel=1e-4)
        assert {**one, "shard": "", "weight": 0} == {**two, "shard": "", "weight": 0}


def test_no_split_parts_duplicates(data, tmp_path):
    profiles = {"clean": {"semantic_min_cosine": SAME}, "broad": {}}
    result, rows = scoring.selected(inputs_of(data), tmp_path, profiles)
    scored = ScoredDataset(data["score"], CuratedDataset(data["curate"]))
    ((a, b, _),) = scored.pairs(SAME)
    splits = [row["split"] for row in rows["broad"]]
    assert splits == [row["split"] for row in rows["clean"]]
    assert all(splits[one] == splits[other] for one, other in zip(a, b, strict=True))
    config = SplitConfig(**scoring.SPLIT)
    alone = splits_of([row["key"] for row in rows["broad"]], config)
    changed = [now for now, code in zip(splits, alone, strict=True) if now != names()[code]]
    # What CLIP may have learnt from is never held out later.
    held = [code for now, code in zip(splits, alone, strict=True) if now == "test"]
    assert set(held) == {names().index("test")}
    assert changed
    assert result.content["splits"]["min_cosine"] == SAME
    assert result.content["splits"]["num_clusters_joined"] > 0


def names():
    return ("train", "validation", "test")


@pytest.mark.parametrize("mode", ["sample", "cap"])
def test_the_balance_is_that_of_the_reference(data, planted, tmp_path, mode):
    profile = {"max_per_query": 9, "balance": mode}
    _, rows = scoring.selected(inputs_of(data), tmp_path, {"p": profile})
    keys = sorted(planted.keys)
    lists = pa.array([planted.queries[key] for key in keys], pa.list_(pa.uint32()))
    config = BalanceConfig(mode=mode, per_query_limit=9, seed=scoring.SPLIT["seed"])
    counts = balancing.merge_counts([balancing.count(lists)], 8)
    if mode == "sample":
        kept = balancing.keep_sampled(pa.array(keys), lists, counts, config)
    else:
        ranks = balancing.ranks(pa.array(keys), lists, counts, config)
        highest = balancing.thresholds(ranks, 8, config)
        kept = balancing.keep_capped(pa.array(keys), lists, counts, highest, config)
    has_query = np.array([bool(planted.queries[key]) for key in keys])
    expected = [key for key, stays in zip(keys, kept.mask | ~has_query, strict=True) if stays]
    assert [row["key"] for row in rows["p"] if row["kept"]] == expected
    assert len(expected) < len(keys)
    assert {row["drop_reason"] for row in rows["p"]} == {None, "over_query_limit"}


def test_what_was_scored_verifies_and_a_flipped_byte_is_told(data, tmp_path):
    result, _ = scoring.selected(inputs_of(data), tmp_path, {"p": {}})
    only = {"curate": data["curate"], "score": data["score"], "select": result}

    def problems():
        found = verify(only, decode=False).problems
        return [each["file"] for each in found if each["stage"] == "score"]

    assert problems() == []
    for name in (PAIRS, "evaluation/faces.parquet", "scores/00001.parquet"):
        uri = storage.join(data["score"].uri, name)
        content = storage.read_bytes(uri)
        storage.write_bytes(uri, content[:99] + bytes([content[99] ^ 1]) + content[100:])
        assert problems() == [name]
        storage.write_bytes(uri, content)


@pytest.mark.parametrize(
    ("section", "error", "words"),
    [
        ({"columns": ["aesthetic"]}, ConfigError, "'aesthetic' is not there"),
        ({"columns": ["captions"]}, ConfigError, "of type list"),
        ({"heads": {"x": {"path": "/nowhere"}}}, ConfigError, "no such file"),
        ({"evaluation_sets": {"x": {"path": "/nowhere"}}}, ConfigError, "no such file or folder"),
        ({"evaluation_sets": {"x": {"path": "BAD"}}}, DataError, "none of its 1 pictures"),
    ],
)
def test_what_cannot_be_scored_is_refused(data, tmp_path, monkeypatch, section, error, words):
    scoring.in_this_process(monkeypatch)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    text = repr(section).replace("BAD", str(tmp_path / "bad.png"))
    with pytest.raises(error, match=words):
        scoring.scored(data, tmp_path / "score", **ast.literal_eval(text))


def test_carried_numbers_come_along_text_too(data, tmp_path, monkeypatch):
    scoring.in_this_process(monkeypatch)
    result = scoring.scored(data, tmp_path / "score", columns=["width", "phash"])
    table = ScoredDataset(result, CuratedDataset(data["curate"])).table(0)
    assert table["width"].to_pylist() == table["side_px"].to_pylist()
    assert result.content["histograms"]["phash"]["num_missing"] > 200  # hex digits are no number


def test_another_picture_makes_another_set(sets, tmp_path):
    from pipeline.selection.config import EvaluationSetConfig

    place = tmp_path / "set"
    place.mkdir()
    (place / "a.png").write_bytes(b"one")
    config = {"x": EvaluationSetConfig(path=str(place))}
    before = sets_hash(config)
    (place / "a.png").write_bytes(b"two")
    assert sets_hash(config) != before
    assert fingerprint({}) != before
