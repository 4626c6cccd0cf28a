"""Embed: every shard's pictures and captions through CLIP, one keyed file beside each shard.

One Ray Data row is one shard, so batches never span shards and a row's numbers depend on its
shard alone; a finished shard is known by its entry and not done again. Dimension names:
``sample``, ``caption``, ``dim``.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from jaxtyping import Float16
from PIL import Image
from torch import Tensor

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.failpoints import failpoint
from pipeline.models.clip import ClipModel
from pipeline.models.pictures import to_unit
from pipeline.models.presets import load_clip
from pipeline.models.tokenizer import pad, tokenizer
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.shards.curated import CuratedDataset, decode
from pipeline.shards.embed_config import EmbedConfig
from pipeline.shards.embedding_files import STATISTICS, ShardEmbeddings
from pipeline.shards.manifest import parquet_name
from pipeline.shards.writer import publish_table

ENTRIES = "entries"


class ClipEmbedder:
    """Ray Data actor: row ``shard`` → the shard's manifest entry; writes the embedding file."""

    def __init__(
        self, config: EmbedConfig, curated_uri: str, clip_uri: str, clip_sha256: str, uri: str
    ) -> None:
        """Load the weights once per actor.

        Args:
            config: The stage's section.
            curated_uri: Folder of the finished `curate` stage.
            clip_uri: CLIP's weights file.
            clip_sha256: Its hash, by which the embeddings name it.
            uri: Folder for the embedding files.
        """
        torch.set_num_threads(config.execution.threads_per_actor)
        self._curated = CuratedDataset.open(curated_uri)
        self._clip = load_clip(clip_uri).eval()
        self._batch_size, self._sha256, self._uri = config.batch_size, clip_sha256, uri

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed one shard, unless its entry says that it is done."""
        started = time.time()
        shard = int(row["shard"])
        entry_uri = _entry_uri(self._uri, shard)
        if not storage.exists(entry_uri):
            storage.write_json(entry_uri, self._embed(shard))
            failpoint("embeddings.after_entry")
        return {"shard": shard, "started_s": started, "ended_s": time.time()}

    def _embed(self, shard: int) -> dict[str, Any]:
        embeddings = self._compute(shard)
        source = self._curated.shards[shard]
        name = parquet_name(source["name"])
        table = embeddings.table(self._sha256, source["sha256"])
        sha256 = publish_table(storage.join(self._uri, name), table)
        values = embeddings.z_img.astype(np.float64)
        return {
            "name": name,
            "sha256": sha256,
            "shard": source["name"],
            "shard_sha256": source["sha256"],
            "num_samples": len(embeddings.keys),
            "num_captions": len(embeddings.z_txt),
            "sum": values.sum(axis=0).tolist(),
            "sum_of_squares": (values**2).sum(axis=0).tolist(),
        }

    def _compute(self, shard: int) -> ShardEmbeddings:
        side = self._clip.config.vision.image_px
        pictures = self._curated.pictures(shard, self._curated.view_for(side))
        rows = self._curated.rows(shard, ["key", "uids", "captions"]).to_pylist()
        if [row["key"] for row in rows] != list(pictures):
            raise DataError(
                f"shard {shard}: its views and its Parquet hold other keys; curate again"
            )
        tokens = [[tokenizer().encode(text) for text in row["captions"]] for row in rows]
        flat = [ids for lists in tokens for ids in lists]
        return ShardEmbeddings(
            keys=list(pictures),
            uids=[row["uids"] for row in rows],
            text_tokens=tokens,
            z_img=self._in_batches(list(pictures.values()), self._encode_images),
            z_txt=self._in_batches(flat, self._encode_texts),
        )

    def _in_batches(
        self, items: Sequence[Any], encode: Callable[[Sequence[Any]], Tensor]
    ) -> Float16[np.ndarray, " row dim"]:
        """Encode in batches of one fixed size; the last is filled up with its first item."""
        parts = [np.empty((0, self._clip.config.embed_dim), np.float16)]
        for start in range(0, len(items), self._batch_size):
            batch = list(items[start : start + self._batch_size])
            filled = batch + [batch[0]] * (self._batch_size - len(batch))
            with torch.no_grad():
                parts.append(encode(filled)[: len(batch)].numpy().astype(np.float16))
        return np.concatenate(parts)

    def _encode_images(self, pictures: Sequence[bytes]) -> Tensor:
        side = self._clip.config.vision.image_px
        images = np.stack([_shrunk(picture, side) for picture in pictures])
        return self._clip.encode_image(to_unit(torch.from_numpy(images).permute(0, 3, 1, 2)))

    def _encode_texts(self, token_lists: Sequence[Sequence[int]]) -> Tensor:
        return self._clip.encode_text(torch.from_numpy(pad(token_lists)))[0]


def _shrunk(picture: bytes, side: int) -> np.ndarray:
    # The same box mean as in training, so that CLIP sees what it learnt from.
    image = decode(picture)
    factor = len(image) // side
    return image if factor == 1 else np.asarray(Image.fromarray(image).reduce(factor))


def _entry_uri(uri: str, shard: int) -> str:
    return storage.join(uri, ENTRIES, f"{shard:05d}.json")


def embed(
    config: EmbedConfig, curated: Result, clip: Result, uri: str, progress: Progress
) -> StageOutput:
    """Embed a curated data set.

    Args:
        config: The stage's section.
        curated: Finished `curate` stage.
        clip: Finished training of CLIP.
        uri: Folder for the embedding files.
        progress: Where to tell people how far it is.

    Raises:
        ConfigError: The actors would take every CPU of the cluster, or CLIP's view is not stored.
        DataError: The weights or a shard are damaged.
    """
    dataset = CuratedDataset(curated)
    weights = clip.content["weights"]
    clip_uri = storage.join(clip.uri, weights["name"])
    _check(config, dataset, clip_uri, weights["sha256"])
    shards = [{"shard": shard} for shard in range(len(dataset.shards))]
    arguments = (config, curated.uri, clip_uri, weights["sha256"], uri)
    graph = ray.data.from_items(shards, override_num_blocks=len(shards)).map(
        ClipEmbedder,  # type: ignore[arg-type]  # Ray builds it in the actor
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=config.execution.num_actors),
        num_cpus=config.execution.threads_per_actor,
    )
    work = []
    with progress.stage("embed", total=len(shards), unit="shards") as bar:
        for row in graph.iter_rows():
            work.append((float(row["started_s"]), float(row["ended_s"])))
            bar.advance(1)
    entries = [storage.read_json(_entry_uri(uri, shard)) for shard in range(len(shards))]
    return StageOutput(_content(entries, weights["sha256"], uri), work)


def _check(config: EmbedConfig, dataset: CuratedDataset, clip_uri: str, sha256: str) -> None:
    found = storage.sha256_of(clip_uri)
    if found != sha256:
        raise DataError(
            f"{clip_uri}: sha256 {found[:12]}… is not the manifest's {sha256[:12]}…; delete "
            "CLIP's folder and train it again"
        )
    dataset.view_for(_clip_side(clip_uri))
    execution = config.execution
    wanted = execution.num_actors * execution.threads_per_actor
    available = ray.cluster_resources().get("CPU", 0.0)
    # An actor pool that takes every CPU leaves none to feed it: Ray Data then waits for ever.
    if wanted >= available:
        raise ConfigError(
            f"embed.execution wants {execution.num_actors} actors x "
            f"{execution.threads_per_actor} CPUs = {wanted}, the Ray cluster has {available:g} and "
            "one must stay free; lower num_actors or threads_per_actor"
        )


def _clip_side(clip_uri: str) -> int:
    clip: ClipModel = load_clip(clip_uri)
    return clip.config.vision.image_px


def _content(entries: list[dict[str, Any]], clip_sha256: str, uri: str) -> dict[str, Any]:
    statistics = z_statistics(entries)
    statistics_uri = storage.join(uri, STATISTICS)
    storage.write_bytes(statistics_uri, (json.dumps(statistics) + "\n").encode())
    sums = ("sum", "sum_of_squares")
    shards = [{k: v for k, v in entry.items() if k not in sums} for entry in entries]
    return {
        "dim": len(statistics["mean"]),
        "clip_sha256": clip_sha256,
        "num_samples": sum(entry["num_samples"] for entry in entries),
        "num_captions": sum(entry["num_captions"] for entry in entries),
        "shards": shards,
        "statistics_sha256": storage.sha256_of(statistics_uri),
    }


def z_statistics(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Mean and standard deviation of raw z_img per dimension, over all rows of all shards.

    Args:
        entries: ``num_samples, sum, sum_of_squares`` per shard, added up in their order.
    """
    count = sum(int(entry["num_samples"]) for entry in entries)
    if count == 0:
        raise DataError("the data set holds no sample to embed; look at curate's funnel")
    mean = np.sum([entry["sum"] for entry in entries], axis=0) / count
    square = np.sum([entry["sum_of_squares"] for entry in entries], axis=0) / count
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    return {"mean": mean.tolist(), "std": std.tolist()}
