"""Search equals brute force, and finds a picture by itself."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.looking.scores import Scored
from pipeline.looking.search import QueryEncoder, nearest
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset


@pytest.fixture(scope="module")
def scored(looked):
    return Scored(looked.results)


def brute_force(looked, scored, query, number):
    """Cosines in float64 over all rows at once, best first."""
    shards = range(len(scored.dataset.shards))
    z_img = np.concatenate([scored.embedded.images(shard)[1] for shard in shards])
    z_img, query = z_img.astype(np.float64), query.astype(np.float64)
    cosines = z_img @ query / np.linalg.norm(z_img, axis=1) / np.linalg.norm(query)
    order = np.argsort(-cosines, kind="stable")[:number]
    return [looked.rows[row]["key"] for row in order], cosines[order]


@pytest.mark.parametrize("number", [1, 7, 50, 80])
def test_the_nearest_are_those_of_brute_force(looked, scored, number):
    queries = np.random.default_rng(number).standard_normal((3, scored.embedded.dim))
    queries = queries.astype(np.float32) * np.float32([[1.0], [50.0], [0.01]])
    found = nearest(scored.embedded, len(scored.dataset.shards), queries, number)
    for query, hits in zip(queries, found, strict=True):
        keys, cosines = brute_force(looked, scored, query, number)
        assert [hit.place.key for hit in hits] == keys
        np.testing.assert_allclose([hit.cosine for hit in hits], cosines, atol=1e-5)


def test_equal_ones_come_in_the_data_sets_order(looked, scored):
    class Same(EmbeddedDataset):
        def images(self, shard):
            keys, z_img = super().images(shard)
            return keys, np.ones_like(z_img)

    same = Same(looked.results["embed"], scored.dataset)
    query = np.ones((1, same.dim), np.float32)
    (hits,) = nearest(same, len(scored.dataset.shards), query, 13)
    assert [hit.place.key for hit in hits] == [row["key"] for row in looked.rows[:13]]


def test_a_picture_of_the_data_set_finds_itself_and_a_caption_has_its_stored_embedding(
    looked, scored, tmp_path
):
    encoder = QueryEncoder(looked.results, scored)
    row = looked.rows[23]
    picture = CuratedDataset(looked.results["curate"]).pictures(row["shard"])[row["key"]]
    path = tmp_path / "query.png"
    path.write_bytes(picture)
    query = encoder.picture(str(path)).astype(np.float32)[None]
    (hits,) = nearest(scored.embedded, len(scored.dataset.shards), query, 2)
    assert hits[0].place.key == row["key"]
    assert hits[0].cosine == pytest.approx(1.0, abs=1e-3)
    stored = scored.embedded.shard(row["shard"], [row["key"]]).z_txt[0]
    np.testing.assert_allclose(encoder.text(row["captions"][0]), stored, atol=2e-3)


def test_what_is_no_picture_is_refused(looked, scored, tmp_path):
    path = tmp_path / "no.jpg"
    path.write_bytes(b"no picture")
    encoder = QueryEncoder(looked.results, scored)
    for place in (str(path), str(tmp_path / "missing.jpg")):
        with pytest.raises(ConfigError, match="give a JPEG, PNG, WebP or GIF file"):
            encoder.picture(place)


def test_another_clip_than_that_of_the_embeddings_is_refused(looked, scored):
    embedded = looked.results["embed"]
    content = {**embedded.content, "clip_sha256": "0" * 64}
    other = replace(embedded, manifest={**embedded.manifest, "content": content})
    with pytest.raises(DataError, match="is not the CLIP of these embeddings"):
        QueryEncoder({**looked.results, "embed": other}, scored)


def test_a_run_without_embeddings_is_refused(looked, scored):
    with pytest.raises(ConfigError, match="run embed first"):
        QueryEncoder({"curate": looked.results["curate"]}, scored)
