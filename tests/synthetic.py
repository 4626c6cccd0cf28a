"""A small curated and embedded data set, and a task cheap enough to train in a unit test."""

import io
import json
import os
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from pipeline import storage
from pipeline.draws import hash64
from pipeline.models.layers import CausalBlock
from pipeline.results import Result, publish_result
from pipeline.shards import assemble, embedding_files, writer, z_statistics
from pipeline.shards.assemble import PoolSample
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import ShardEmbeddings
from pipeline.shards.keep_list import KeepList, keep_everything
from pipeline.shards.select_config import SplitConfig
from pipeline.training.batches import DataPlace
from pipeline.training.config import TrainConfig
from pipeline.training.settings import LoopSettings

DIM = 6
VIEW_PX = 16


def sample_key(number: int) -> str:
    return f"{hash64('key', number):016x}{hash64('key2', number):016x}"


def make_curated(
    folder: Path, num_samples: int = 60, per_shard: int = 10, first: int = 0
) -> Result:
    """Pictures of one colour each, two captions for every third, clusters of two neighbours."""
    uri = str(folder / "curate" / "000000000000")
    samples, pictures = [], b""
    keys = sorted(sample_key(number) for number in range(first, first + num_samples))
    for number, key in enumerate(keys):
        colour = tuple(hash64("colour", key, channel) % 256 for channel in range(3))
        picture = io.BytesIO()
        Image.new("RGB", (40, 30 + number % 3), colour).save(picture, "JPEG")
        captions = [f"caption {number}"] + ([f"other {number}"] if number % 3 == 0 else [])
        metadata = {
            "key": key,
            "url": f"http://host{number % 5}.example/{number}.png",
            "captions": captions,
            "uids": [f"{key[:28]}{index:04d}" for index in range(len(captions))],
            "sha256": f"{number:064x}",
            "width": 40,
            "height": 30 + number % 3,
            "original_width": 40,
            "original_height": 30 + number % 3,
            "phash": f"{number:016x}",
            "cluster": keys[number // 2 * 2],
            "queries": [number % 4],
            "page_url": None,
            "licence": None,
        }
        samples.append(PoolSample(metadata, len(pictures), len(picture.getvalue())))
        pictures += picture.getvalue()
    written = write(uri, samples, pictures, per_shard)
    content = {
        "shards": [shard.shard.as_json() for shard in written],
        "views": {str(VIEW_PX): [shard.views[str(VIEW_PX)].as_json() for shard in written]},
        "num_samples": num_samples,
        "funnel": {"candidates": num_samples, "kept": num_samples, "dropped": {}},
    }
    return publish(uri, "curate", content)


def write(uri: str, samples: list[PoolSample], pictures: bytes, per_shard: int):
    with tempfile.TemporaryFile() as pool:
        pool.write(pictures)
        return assemble.write_shards(
            uri,
            samples,
            pool,
            schema=writer.SAMPLE,
            first_index=0,
            samples_per_shard=per_shard,
            views_px=[VIEW_PX],
        )


def publish(uri: str, stage: str, content: dict, config: dict | None = None) -> Result:
    return publish_result(
        uri,
        stage=stage,
        identity="0" * 64,
        config=config or {},
        inputs={},
        content=content,
        circumstance={},
    )


def make_embedded(folder: Path, curated: Result) -> Result:
    """Random embeddings; the cosine of picture and caption falls with the row."""
    uri, dataset = str(folder / "embed" / "000000000000"), CuratedDataset(curated)
    entries = []
    for shard, entry in enumerate(dataset.shards):
        rows = dataset.rows(shard, ["key", "uids"]).to_pylist()
        rng = np.random.default_rng(shard)
        z_img = rng.standard_normal((len(rows), DIM)).astype(np.float16)
        counts = [len(row["uids"]) for row in rows]
        owner = np.repeat(np.arange(len(rows)), counts)
        noise = rng.standard_normal((len(owner), DIM)) * owner[:, None] / 10
        embeddings = ShardEmbeddings(
            keys=[row["key"] for row in rows],
            uids=[row["uids"] for row in rows],
            text_tokens=[[[1, 2 + index, 9] for index in range(count)] for count in counts],
            z_img=z_img,
            z_txt=(z_img[owner] + noise).astype(np.float16),
        )
        name = entry["name"].replace(".tar", ".parquet")
        table = embeddings.table("c" * 64, entry["sha256"])
        sha256 = writer.publish_table(storage.join(uri, name), table)
        entries.append(
            {
                "name": name,
                "shard": entry["name"],
                "shard_sha256": entry["sha256"],
                "sha256": sha256,
                "num_samples": len(rows),
            }
        )
    statistics = json.dumps({"mean": [0.0] * DIM, "std": [1.0] * DIM}).encode()
    storage.write_bytes(storage.join(uri, embedding_files.STATISTICS), statistics)
    rows = (embedding_files.read_z_img(storage.join(uri, e["name"]), DIM) for e in entries)
    storage.write_bytes(
        storage.join(uri, embedding_files.PCA),
        z_statistics.as_file(z_statistics.principal_components(rows, DIM)),
    )
    content = {
        "dim": DIM,
        "clip_sha256": "c" * 64,
        "shards": entries,
        "statistics_sha256": storage.sha256_of(storage.join(uri, embedding_files.STATISTICS)),
        "pca_sha256": storage.sha256_of(storage.join(uri, embedding_files.PCA)),
    }
    return publish(uri, "embed", content)


def make_keep_list(folder: Path, curated: Result, validation_share: float = 0.2) -> KeepList:
    split = SplitConfig(seed=3, validation_share=validation_share, test_share=0.1)
    uri = str(folder / "keep" / "clip.parquet")
    return keep_everything(CuratedDataset(curated), split, uri)


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(DIM, 16)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(16, DIM)

    def forward(self, x):
        return self.out(self.drop(torch.relu(self.hidden(x))))


@dataclass
class RegressionTask:
    """Predict z_txt from noised z_img: draws, dropout, embeddings and pictures of a real task."""

    poison_key: str | None = None
    """The sample whose loss is not a number."""
    view_px: int | None = None
    image_px: int | None = None
    needs_embeddings: bool = True
    whole_batch: bool = False

    def build(self) -> nn.Module:
        return Regression()

    def prepare(self, sample, rng):
        choice = int(rng.integers(len(sample.captions)))
        noise = rng.standard_normal(DIM).astype(np.float32)
        return {
            "x": sample.z_img + 0.1 * noise,
            "y": sample.z_txt[choice],
            "bad": np.float32(np.nan if sample.key == self.poison_key else 0.0),
        }

    def loss(self, model, batch):
        losses = ((model(batch["x"]) - batch["y"]) ** 2).mean(dim=1) + batch["bad"]
        return losses, {"size": batch["x"].abs().mean()}

    def pictures(self, model, batch):
        shade = model(batch["x"]).sigmoid().mul(255).to(torch.uint8)
        return shade[:, :3, None, None].expand(-1, 3, 8, 8).contiguous()


@dataclass
class PictureTask(RegressionTask):
    """The same regression, which also brings the picture and the position."""

    view_px: int | None = VIEW_PX
    fails: bool = False

    def prepare(self, sample, rng):
        if self.fails:
            raise ZeroDivisionError
        extra = {"image": sample.image, "position": np.int64(sample.position)}
        return {**super().prepare(sample, rng), **extra}


class Blocks(nn.Module):
    """What sharding must cope with: blocks, a single number, sizes that no worker count divides."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(DIM, 4 * 16)
        self.blocks = nn.ModuleList([CausalBlock(16, 8) for _ in range(2)])
        self.narrow = nn.Linear(16, 3)
        self.out = nn.Linear(16 + 3, DIM)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("shift", torch.full((DIM,), 0.1))

    def forward(self, tokens):
        for block in self.blocks:
            tokens = block(tokens, None)
        h = tokens.mean(dim=1)
        return self.out(torch.cat([h, self.narrow(h)], dim=1)) + self.shift


@dataclass
class BlockTask(RegressionTask):
    """The same regression through `Blocks`, and which samples it was trained on, in order."""

    seen: list = field(default_factory=list)

    def build(self) -> nn.Module:
        return Blocks()

    def prepare(self, sample, rng):
        number = np.array([sample.position, int(sample.key[:15], 16)])
        return {**super().prepare(sample, rng), "sample": number}

    def loss(self, model, batch):
        if model.training:
            self.seen += batch["sample"].tolist()
        # Parts of the model are called from outside it, as tasks do.
        tokens = model.embed(batch["x"]).unflatten(1, (4, 16))
        made = model.log_scale.exp() * model(tokens)
        losses = ((made - batch["y"]) ** 2).mean(dim=1) + batch["bad"]
        return losses, {"size": batch["x"].abs().mean()}

    def pictures(self, model, batch):
        shade = (
            model(model.embed(batch["x"]).unflatten(1, (4, 16))).sigmoid().mul(255).to(torch.uint8)
        )
        return shade[:, :3, None, None].expand(-1, 3, 8, 8).contiguous()


def train_config(**changes) -> TrainConfig:
    values = {
        "task": {
            "type": "prior",
            "model": {
                "clip": {"embed_dim": DIM, "text_width": 8},
                "width": 64,
                "layers": 1,
            },
            "diffusion": {"num_steps": 10, "schedule": "cosine", "prediction": "x_start"},
        },
        "samples": 160,
        "global_batch_size": 8,
        "micro_batch_size": 4,
        "num_lanes": 4,
        "seed": 5,
        "learning_rate": 1e-2,
        "decay": "cosine",
        "ema_decay": 0.9,
        "profile": "generative",
        "execution": {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1e9},
    }
    return TrainConfig.model_validate(values | changes)


def make_dataset(folder: Path, num_samples: int = 60, first: int = 0) -> DataPlace:
    """A curated and embedded data set with a keep-list; another ``first`` gives other keys."""
    curated = make_curated(folder, num_samples, first=first)
    embedded = make_embedded(folder, curated)
    return DataPlace(curated.uri, make_keep_list(folder, curated), embedded.uri)


def loop_settings(data: DataPlace, uri: Path, **changes) -> LoopSettings:
    """Settings of a short run."""
    settings = {
        "config": train_config(),
        "stage": "prior",
        "task": RegressionTask(),
        "data": data,
        "uri": str(uri),
        "published_config": {"type": "test"},
        "validation_samples": 8,
    }
    return LoopSettings(**(settings | changes))


@dataclass
class DyingTask(RegressionTask):
    """Kills its own process once, at a given call of ``loss``, and is trained again from there."""

    marker: str = ""
    at_call: int = 0

    def loss(self, model, batch):
        self._calls = getattr(self, "_calls", 0) + 1
        if self._calls == self.at_call and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


@dataclass
class SlowTask(RegressionTask):
    """Takes its time, one of the workers more than the others."""

    seconds: float = 0.05
    slow_rank: int = -1

    def loss(self, model, batch):
        rank = dist.get_rank() if dist.is_initialized() else 0
        time.sleep(self.seconds * (3 if rank == self.slow_rank else 1))
        return super().loss(model, batch)
