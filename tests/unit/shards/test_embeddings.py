"""Embeddings depend on their shard alone and know what they were made from."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import storage, weights_file
from pipeline.errors import DataError
from pipeline.models.config import ClipConfig
from pipeline.models.pictures import to_unit
from pipeline.models.presets import build_clip, load_clip
from pipeline.models.tokenizer import tokenizer
from pipeline.shards import embeddings
from pipeline.shards.clip_encoder import ClipEncoder, open_clip_square
from pipeline.shards.curated import CuratedDataset, decode
from pipeline.shards.embed_config import EmbedConfig
from pipeline.shards.embedding_files import EmbeddedDataset, cosine
from pipeline.shards.embeddings import ClipEmbedder
from pipeline.shards.z_statistics import chosen_shards, z_statistics
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
    weights_file.export_weights(weights, build_clip(config).state_dict(), CLIP, "clip")
    return SimpleNamespace(curated=make_curated(folder, num_samples=25), weights=weights)


def embed(data, uri, batch_size=4, order=(0, 1, 2), pictures="view", **execution):
    """What the stage does, in this process."""
    execution = {"num_actors": 1, "threads_per_actor": 1, **execution}
    values = {"batch_size": batch_size, "pictures": pictures, "execution": execution}
    config = EmbedConfig.model_validate(values)
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


@pytest.mark.parametrize("decoders", [0, 3])
def test_decoding_threads_change_nothing(data, tmp_path, decoders):
    one = embed(data, tmp_path / "one")
    other = embed(data, tmp_path / "other", decoders_per_actor=decoders)
    assert one.content == other.content
    assert one.content["precision"] == ["float32"]


def test_shards_own_pictures_are_embedded_as_open_clip_shows_them(data, tmp_path):
    curated = CuratedDataset(data.curated)
    embedded = EmbeddedDataset(embed(data, tmp_path, pictures="shard"), curated)
    clip = load_clip(data.weights).eval()
    pictures = curated.pictures(2)
    shard = embedded.shard(2, list(pictures))
    for number, encoded in enumerate(pictures.values()):
        square = open_clip_square(curated.open_picture(encoded), VIEW_PX // 2)
        with torch.no_grad():
            image = to_unit(torch.from_numpy(square.copy()).permute(2, 0, 1)[None])
            expected = clip.encode_image(image)[0]
        assert np.allclose(expected, shard.z_img[number], atol=0.02)


def test_a_row_is_the_same_in_any_batch_position(data):
    """The last batch is padded: its rows have the numbers of full batches, bit for bit."""
    encoder = ClipEncoder(load_clip(data.weights), 4, torch.device("cpu"))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (8, 8, 3), np.uint8).tobytes() for _ in range(7)]

    def decode_raw(raw):
        return np.frombuffer(raw, np.uint8).reshape(8, 8, 3).copy()

    every = encoder.images(pictures, decode_raw)
    assert every.dtype == np.float16
    for count in range(1, 7):
        assert np.array_equal(encoder.images(pictures[:count], decode_raw), every[:count])
    assert encoder.images([], decode_raw).shape == (0, 8)


def test_errors_of_ours_come_back_by_name(data, tmp_path):
    execution = {"num_actors": 1, "threads_per_actor": 1}
    config = EmbedConfig.model_validate({"batch_size": 4, "execution": execution})
    actor = ClipEmbedder(config, data.curated.uri, data.weights, "x", str(tmp_path))
    actor._encoder.side_px = 1000
    kind, message = json.loads(actor({"shard": 0})["error"])
    assert (kind, "no view that shrinks to 1000 px" in message) == ("ConfigError", True)


def test_principal_components_are_those_of_all_rows(data, tmp_path):
    embedded = EmbeddedDataset(embed(data, tmp_path), CuratedDataset(data.curated))
    rows = np.concatenate([np.array(embedded.table(n)["z_img"].to_pylist()) for n in range(3)])
    pca = embedded.pca()
    assert np.allclose(pca["components"] @ pca["components"].T, np.eye(8), atol=1e-5)
    projected = (rows - pca["mean"]) @ pca["components"].T
    assert np.allclose(projected.var(axis=0), pca["variance"], atol=1e-5)
    assert np.all(np.diff(pca["variance"]) <= 0)
    assert pca["variance"].sum() == pytest.approx(rows.var(axis=0).sum(), rel=1e-4)


def test_components_come_from_whole_shards_evenly_spread():
    assert chosen_shards([10] * 4, 100) == [0, 1, 2, 3]
    assert chosen_shards([10] * 10, 50) == [0, 2, 4, 6, 8]
    assert chosen_shards([], 50) == []


@pytest.mark.gpu
def test_a_gpus_bfloat16_is_close_to_float32(data):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    encoders = [
        ClipEncoder(load_clip(data.weights), 4, torch.device(device), 2)
        for device in ("cpu", "cuda")
    ]
    assert [encoder.precision for encoder in encoders] == ["float32", "bfloat16"]
    curated = CuratedDataset(data.curated)
    pictures = list(curated.pictures(0).values())

    def square(encoded):
        return open_clip_square(curated.open_picture(encoded), VIEW_PX // 2)

    first, second = (encoder.images(pictures, square) for encoder in encoders)
    assert cosine(first, second).min() > 0.999


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
