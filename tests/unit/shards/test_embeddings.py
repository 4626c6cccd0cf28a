"""Embeddings depend on their shard alone and know what they were made from."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import checkpoints, storage
from pipeline.errors import DataError
from pipeline.models.config import ClipConfig
from pipeline.models.pictures import to_unit
from pipeline.models.presets import build_clip, load_clip
from pipeline.models.tokenizer import tokenizer
from pipeline.shards import embeddings
from pipeline.shards.curated import CuratedDataset, decode
from pipeline.shards.embed_config import EmbedConfig
from pipeline.shards.embedding_files import EmbeddedDataset, cosine
from pipeline.shards.embeddings import ClipEmbedder, z_statistics
from tests.synthetic import VIEW_PX, make_curated, publish

CLIP = {
    "embed_dim": 8,
    "vision": {"image_px": VIEW_PX // 2, "patch_px": 4, "width": 16, "layers": 1, "heads": 2},
    "text": {"width": 16, "layers": 1, "heads": 2},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    weights = str(folder / "clip.safetensors")
    config = ClipConfig.model_validate(CLIP)
    checkpoints.export_weights(weights, build_clip(config).state_dict(), CLIP, "clip")
    return SimpleNamespace(curated=make_curated(folder, num_samples=25), weights=weights)


def embed(data, uri, batch_size=4, order=(0, 1, 2)):
    """What the stage does, in this process."""
    execution = {"num_actors": 1, "threads_per_actor": 1}
    config = EmbedConfig.model_validate({"batch_size": batch_size, "execution": execution})
    sha256 = storage.sha256_of(data.weights)
    actor = ClipEmbedder(config, data.curated.uri, data.weights, sha256, str(uri))
    for shard in order:
        actor({"shard": shard})
    entries = [storage.read_json(embeddings._entry_uri(str(uri), shard)) for shard in range(3)]
    content = embeddings._content(entries, sha256, str(uri))
    return publish(str(uri), "embed", content)


def test_rows_are_clip_of_the_shrunk_picture_and_of_every_caption(data, tmp_path):
    result = embed(data, tmp_path)
    curated = CuratedDataset(data.curated)
    embedded, clip = EmbeddedDataset(result, curated), load_clip(data.weights).eval()
    rows, pictures = curated.rows(1).to_pylist(), curated.pictures(1, VIEW_PX)
    shard = embedded.shard(1, [row["key"] for row in rows])
    for number, row in enumerate(rows):
        image = torch.from_numpy(decode(pictures[row["key"]])).permute(2, 0, 1)[None].float()
        small = torch.nn.functional.avg_pool2d(image, 2).round().to(torch.uint8)
        tokens, z_img, z_txt = shard.of(number)
        with torch.no_grad():
            assert np.allclose(clip.encode_image(to_unit(small))[0], z_img, atol=0.02)
            for ids, vector, text in zip(tokens, z_txt, row["captions"], strict=True):
                assert ids.tolist() == tokenizer().encode(text)
                expected = clip.encode_text(torch.from_numpy(ids)[None])[0][0]
                assert np.allclose(expected, vector, atol=0.02)


def test_files_do_not_depend_on_scheduling(data, tmp_path):
    first = embed(data, tmp_path / "one")
    second = embed(data, tmp_path / "two", order=(2, 0, 1))
    assert first.content == second.content
    assert first.manifest_hash == second.manifest_hash


def test_a_finished_shard_is_not_embedded_again(data, tmp_path, monkeypatch):
    result = embed(data, tmp_path)
    monkeypatch.setattr(ClipEmbedder, "_embed", lambda *_: pytest.fail("embedded again"))
    assert embed(data, tmp_path).content == result.content


def test_similarity_is_the_cosine_of_picture_and_caption(data, tmp_path):
    table = EmbeddedDataset(embed(data, tmp_path), CuratedDataset(data.curated)).table(0)
    for row in table.to_pylist():
        z_img, z_txt = np.float16([row["z_img"]]), np.float16(row["z_txt"])
        expected = [float(cosine(z_img, vector[None])[0]) for vector in z_txt]
        assert row["similarity"] == pytest.approx(expected, abs=1e-6)
        assert len(row["uids"]) == len(row["z_txt"]) == len(row["text_tokens"])


def test_statistics_are_mean_and_deviation_of_all_rows(data, tmp_path):
    embedded = EmbeddedDataset(embed(data, tmp_path), CuratedDataset(data.curated))
    rows = np.concatenate([np.array(embedded.table(n)["z_img"].to_pylist()) for n in range(3)])
    mean, std = embedded.statistics()
    assert mean == pytest.approx(rows.mean(axis=0), abs=1e-9)
    assert std == pytest.approx(rows.std(axis=0), abs=1e-6)


def test_statistics_of_nothing_are_refused():
    with pytest.raises(DataError, match="no sample"):
        z_statistics([])


def test_a_changed_file_and_a_foreign_clip_are_refused(data, tmp_path):
    result = embed(data, tmp_path)
    dataset = CuratedDataset(data.curated)
    foreign = publish(str(tmp_path), "embed", {**result.content, "clip_sha256": "f" * 64})
    with pytest.raises(DataError, match="clip_sha256"):
        EmbeddedDataset(foreign, dataset).table(0)
    Path(tmp_path, "00000.parquet").write_bytes(Path(tmp_path, "00001.parquet").read_bytes())
    with pytest.raises(DataError, match="sha256"):
        EmbeddedDataset(result, dataset).table(0)
    with pytest.raises(DataError, match="no embedding of 1 keys"):
        EmbeddedDataset(result, dataset).shard(1, ["unknown"])
