"""Embed: every shard's pictures and captions through CLIP, one keyed file beside each shard.

One Ray Data row is one shard, so batches never span shards and a row's numbers depend on its
shard alone; a finished shard is known by its entry and not done again. Pictures are decoded where
they are embedded, by threads of the same actor and not by a pool of CPU workers: pixels cross no
process and never enter Ray's object store. The price: an actor's decoding is bounded by the cores
of its machine, and it holds the encoded pictures of one whole shard (``num_bytes`` of its entry,
or of the view's), because the tar is verified before any of it is used. Dimension names:
``sample``, ``caption``, ``dim``.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
import ray.data
import torch

from pipeline import errors, storage
from pipeline.errors import ConfigError, DataError, PipelineError
from pipeline.failpoints import failpoint
from pipeline.models.presets import load_clip
from pipeline.models.tokenizer import tokenizer
from pipeline.placement import models_on
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.shards.clip_encoder import ClipEncoder, Pixels, open_clip_square
from pipeline.shards.curated import CuratedDataset, decode
from pipeline.shards.embed_config import EmbedConfig
from pipeline.shards.embedding_files import PCA, STATISTICS, ShardEmbeddings, read_z_img
from pipeline.shards.manifest import parquet_name
from pipeline.shards.views import shrunk
from pipeline.shards.writer import publish_table
from pipeline.shards.z_statistics import (
    as_file,
    chosen_shards,
    principal_components,
    z_statistics,
)

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
        execution = config.execution
        torch.set_num_threads(execution.threads_per_actor)
        device = torch.device("cuda" if execution.gpus_per_actor else "cpu")
        self._encoder = ClipEncoder(
            load_clip(clip_uri), config.batch_size, device, execution.decoders_per_actor
        )
        self._curated = CuratedDataset.open(curated_uri)
        self._pictures, self._sha256, self._uri = config.pictures, clip_sha256, uri

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed one shard, unless its entry says that it is done; our errors come back as text."""
        started, error = time.time(), ""
        shard = int(row["shard"])
        entry_uri = _entry_uri(self._uri, shard)
        try:
            if not storage.exists(entry_uri):
                storage.write_json(entry_uri, self._embed(shard))
                failpoint("embeddings.after_entry")
        except PipelineError as found:  # Ray Data would lose its type
            error = json.dumps([type(found).__name__, str(found)])
        return {"shard": shard, "started_s": started, "ended_s": time.time(), "error": error}

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
            "precision": self._encoder.precision,
            "num_samples": len(embeddings.keys),
            "num_captions": len(embeddings.z_txt),
            "sum": values.sum(axis=0).tolist(),
            "sum_of_squares": (values**2).sum(axis=0).tolist(),
        }

    def _compute(self, shard: int) -> ShardEmbeddings:
        pictures = self._curated.pictures(shard, self._view_px())
        rows = self._curated.rows(shard, ["key", "uids", "captions"]).to_pylist()
        if [row["key"] for row in rows] != list(pictures):
            raise DataError(
                f"shard {shard}: its pictures and its Parquet hold other keys; curate again"
            )
        tokens = [[tokenizer().encode(text) for text in row["captions"]] for row in rows]
        flat = [ids for lists in tokens for ids in lists]
        return ShardEmbeddings(
            keys=list(pictures),
            uids=[row["uids"] for row in rows],
            text_tokens=tokens,
            z_img=self._encoder.images(list(pictures.values()), self._decode),
            z_txt=self._encoder.texts(flat),
        )

    def _view_px(self) -> int | None:
        if self._pictures == "shard":
            return None
        return self._curated.view_for(self._encoder.side_px)

    def _decode(self, picture: bytes) -> Pixels:
        side_px = self._encoder.side_px
        if self._pictures == "shard":
            return open_clip_square(self._curated.open_picture(picture), side_px)
        return shrunk(decode(picture), side_px)


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
        num_cpus=config.execution.cpus_per_actor,
        num_gpus=config.execution.gpus_per_actor or None,
        label_selector=models_on(),
    )
    work = []
    with progress.stage("embed", total=len(shards), unit="shards") as bar:
        for row in graph.iter_rows():
            if row["error"]:
                kind, message = json.loads(row["error"])
                raise getattr(errors, kind)(message)
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
    if config.pictures == "view":
        dataset.view_for(load_clip(clip_uri).config.vision.image_px)
    _check_resources(config)


def _check_resources(config: EmbedConfig) -> None:
    execution, resources = config.execution, ray.cluster_resources()
    wanted = execution.num_actors * execution.cpus_per_actor
    available = resources.get("CPU", 0.0)
    # An actor pool that takes every CPU leaves none to feed it: Ray Data then waits for ever.
    if wanted >= available:
        raise ConfigError(
            f"embed.execution wants {execution.num_actors} actors x "
            f"{execution.cpus_per_actor} CPUs = {wanted}, the Ray cluster has {available:g} and "
            "one must stay free; lower num_actors, threads_per_actor or decoders_per_actor"
        )
    gpus, there = execution.num_actors * execution.gpus_per_actor, resources.get("GPU", 0.0)
    if gpus > there:
        raise ConfigError(
            f"embed.execution wants {gpus:g} GPUs, the Ray cluster has {there:g}; lower "
            "num_actors, or set gpus_per_actor=0 to compute on CPUs"
        )


def _content(entries: list[dict[str, Any]], clip_sha256: str, uri: str) -> dict[str, Any]:
    statistics = z_statistics(entries)
    statistics_uri, pca_uri = storage.join(uri, STATISTICS), storage.join(uri, PCA)
    storage.write_bytes(statistics_uri, (json.dumps(statistics) + "\n").encode())
    dim = len(statistics["mean"])
    storage.write_bytes(pca_uri, _pca(entries, dim, uri))
    sums = ("sum", "sum_of_squares", "precision")
    shards = [{k: v for k, v in entry.items() if k not in sums} for entry in entries]
    return {
        "dim": dim,
        "clip_sha256": clip_sha256,
        "precision": sorted({entry["precision"] for entry in entries}),
        "num_samples": sum(entry["num_samples"] for entry in entries),
        "num_captions": sum(entry["num_captions"] for entry in entries),
        "shards": shards,
        "statistics_sha256": storage.sha256_of(statistics_uri),
        "pca_sha256": storage.sha256_of(pca_uri),
    }


def _pca(entries: Sequence[Mapping[str, Any]], dim: int, uri: str) -> bytes:
    chosen = chosen_shards([int(entry["num_samples"]) for entry in entries])
    places = (storage.join(uri, entries[shard]["name"]) for shard in chosen)
    return as_file(principal_components((read_z_img(place, dim) for place in places), dim))
