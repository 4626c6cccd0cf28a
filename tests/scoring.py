"""The stages `score` and `select` in this process, without Ray, on data sets of the tests."""

import io

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from pipeline import steps, storage
from pipeline.demo.shapes import random_scene, render
from pipeline.draws import hash64
from pipeline.images.decode import open_rgb
from pipeline.images.dedup import signature
from pipeline.models.config import ClipConfig
from pipeline.models.presets import build_clip
from pipeline.progress import Progress
from pipeline.results import publish_result
from pipeline.selection.config import ScoreConfig
from pipeline.selection.score import score
from pipeline.selection.select import select
from pipeline.shards.assemble import PoolSample
from pipeline.shards.clip_encoder import ClipEncoder, open_clip_square
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import ShardEmbeddings
from pipeline.shards.select_config import SelectConfig
from pipeline.shards.writer import publish_table
from pipeline.weights_file import export_weights
from tests.synthetic import publish, write

SPLIT = {"seed": 3, "validation_share": 0.2, "test_share": 0.1}


def in_this_process(monkeypatch):
    """Let steps do their rows here, one after the other."""
    monkeypatch.setattr(steps, "map_partitions", map)


def scored(inputs, folder, **section):
    """A finished `score` stage."""
    uri = str(folder)
    config = ScoreConfig.model_validate(section)
    output = score(config, dict(inputs), uri, Progress(io.StringIO()))
    return publish(uri, "score", output.content)


def selected(inputs, folder, profiles, **section):
    """A finished `select` stage and the rows of each keep-list."""
    uri = str(folder)
    config = SelectConfig.model_validate({"split": SPLIT, "profiles": profiles, **section})
    output = select(config, dict(inputs), uri, Progress(io.StringIO()))
    rows = {name: pq.read_table(f"{uri}/keep/{name}.parquet").to_pylist() for name in profiles}
    return publish(uri, "select", output.content), rows


CLIP = {
    "embed_dim": 64,
    "vision": {"image_px": 32, "patch_px": 8, "width": 64, "layers": 2, "heads": 2},
    "text": {"width": 8, "layers": 1, "heads": 2},
}


def make_picture(number: int, side_px: int = 96) -> Image.Image:
    """A scene of the small web before a field of colours: as different as photographs are."""
    rng = np.random.default_rng(number)
    field = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    field = field.resize((side_px, side_px), Image.Resampling.BICUBIC)
    return Image.blend(field, render(random_scene(rng), side_px), 0.3)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def make_clip(folder):
    """An untrained CLIP with its weights, and its encoder."""
    torch.manual_seed(0)
    clip = build_clip(ClipConfig.model_validate(CLIP))
    uri = str(folder / "clip")
    weights = storage.join(uri, "weights.safetensors")
    export_weights(weights, clip.state_dict(), {"task": {"type": "clip", "model": CLIP}}, "clip")
    entry = {"name": "weights.safetensors", "sha256": storage.sha256_of(weights)}
    return publish(uri, "clip", {"weights": entry}), ClipEncoder(clip, 32, torch.device("cpu"))


def make_data(folder, pictures, per_shard=50, clusters=None, queries=None):
    """A curated and embedded data set of pictures by key; clusters and queries by key too."""
    clip, encoder = make_clip(folder)
    uri = str(folder / "curate")
    samples, pool = [], b""
    for number, key in enumerate(sorted(pictures)):
        encoded = pictures[key]
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        metadata = {
            "key": key,
            "url": f"http://host{number % 5}.example/{key}.jpg",
            "captions": [f"caption {key}"],
            "uids": [key],
            "sha256": "0" * 64,
            "width": image.width,
            "height": image.height,
            "original_width": image.width,
            "original_height": image.height,
            "phash": signature(image).phash_hex,
            "cluster": (clusters or {}).get(key, key),
            "queries": (queries or {}).get(key, []),
            "page_url": None,
            "licence": None,
        }
        samples.append(PoolSample(metadata, len(pool), len(encoded)))
        pool += encoded
    written = write(uri, samples, pool, per_shard)
    content = {
        "shards": [shard.shard.as_json() for shard in written],
        "views": {"16": [shard.views["16"].as_json() for shard in written]},
        "num_samples": len(samples),
        "funnel": {"candidates": len(samples), "kept": len(samples), "dropped": {}},
    }
    curated = publish(uri, "curate", content)
    return {"curate": curated, "clip": clip, "embed": _embedded(folder, curated, clip, encoder)}


def _embedded(folder, curated, clip, encoder):
    dataset, uri = CuratedDataset(curated), str(folder / "embed")
    sha256, entries = clip.content["weights"]["sha256"], []
    for shard, entry in enumerate(dataset.shards):
        pictures = dataset.pictures(shard)
        z_img = encoder.images(
            [*pictures.values()], lambda each: open_clip_square(open_rgb(each), 32)
        )
        noise = [np.random.default_rng(hash64(key)).normal(size=64) for key in pictures]
        embeddings = ShardEmbeddings(
            keys=[*pictures],
            uids=[[key] for key in pictures],
            text_tokens=[[[1, 9]] for _ in pictures],
            z_img=z_img,
            z_txt=(z_img + 0.3 * np.stack(noise)).astype(np.float16),
        )
        name = entry["name"].replace(".tar", ".parquet")
        table = embeddings.table(sha256, entry["sha256"])
        found = publish_table(storage.join(uri, name), table)
        entries.append(
            {
                "name": name,
                "shard": entry["name"],
                "shard_sha256": entry["sha256"],
                "sha256": found,
                "num_samples": len(pictures),
            }
        )
    content = {"dim": 64, "clip_sha256": sha256, "shards": entries}
    return publish_result(
        uri,
        stage="embed",
        identity="0" * 64,
        config={"batch_size": 32, "pictures": "shard"},
        inputs={},
        content=content,
        circumstance={},
    )
