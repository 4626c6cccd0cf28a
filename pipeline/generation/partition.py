"""One partition of a generation: its pictures, its embeddings, its shard.

Dimension names: ``batch`` (pictures), ``dim`` (joint embedding), ``side`` (pixels).
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline import storage
from pipeline.generation.config import GenerateConfig
from pipeline.generation.pictures import models_as_facts, png_bytes, to_images
from pipeline.generation.plan import DECODER, FINAL, Partition, PictureJob
from pipeline.generation.run_stages import RunStages
from pipeline.generation.safety import Verdict, picture_rules, shown, worst
from pipeline.generation.unclip import UnCLIP
from pipeline.memory import keep_freed_memory
from pipeline.shards.manifest import folder as manifest_folder
from pipeline.shards.manifest import parquet_name, shard_name
from pipeline.shards.writer import TarShardWriter, publish_table, texts

PICTURE_EXTENSION = "png"


def done_uri(uri: str, number: int) -> str:
    """The marker of a finished partition."""
    return storage.join(uri, "done", f"{number:05d}.json")


@dataclass(frozen=True)
class _Made:
    """Pictures of one batch and what they were made from; rows belong together."""

    jobs: Sequence[PictureJob]
    kind: str
    images: list[Image.Image]
    z_img: Float[np.ndarray, " batch dim"]
    z_txt: Float[np.ndarray, " batch dim"]
    z_img_of_picture: Float[np.ndarray, " batch dim"]
    verdicts: Sequence[Verdict] = ()
    """Of ``safety``; empty where it does not look at pictures."""


class PartitionMaker:
    """Holds a stack and makes partitions with it."""

    def __init__(
        self,
        stages: RunStages,
        config: GenerateConfig,
        mean_z_img: tuple[float, ...],
        uri: str,
    ) -> None:
        """Load the models once.

        Args:
            stages: Folders of the weights.
            config: How to sample.
            mean_z_img: Raw mean image embedding of the training data, per dimension.
            uri: The stage's folder.
        """
        torch.set_num_threads(config.execution.threads)
        keep_freed_memory()
        device = "cuda" if config.execution.gpus_per_actor > 0 else "cpu"
        self._unclip = UnCLIP.from_stages(stages, config.sampling, device=device)
        self._config, self._uri = config, uri
        self._mean = torch.tensor(mean_z_img, device=device)
        clip = self._unclip.stack.clip.config, self._fingerprints()["clip"]
        self._rules = picture_rules(config.safety, *clip)

    def make(self, partition: Partition) -> dict[str, Any]:
        """Make a partition's pictures and publish them, the marker last.

        Returns:
            The content of the marker: ``shard, kinds, started_s, ended_s``, with ``safety`` also
            ``withheld``: final pictures or ablations by reason.
        """
        started = time.time()
        made: list[_Made] = []
        size = self._config.batch_size
        for start in range(0, len(partition.jobs), size):
            made += self._judged(list(self._make_batch(partition.jobs[start : start + size])))
        shard = self._publish(partition.number, made)
        kinds = {m.kind: 0 for m in made}
        for m in made:
            kinds[m.kind] += len(m.jobs)
        marker = {"shard": shard, "kinds": kinds, "started_s": started, "ended_s": time.time()}
        if self._config.safety is not None:
            told = (v.reasons for m in made if m.kind == partition.jobs[0].kind for v in m.verdicts)
            marker["withheld"] = dict(Counter(reason for reasons in told for reason in reasons))
        storage.write_json(done_uri(self._uri, partition.number), marker)
        return marker

    def _make_batch(self, jobs: Sequence[PictureJob]) -> Iterator[_Made]:
        num, seed = len(jobs), self._config.seed
        # A short batch is filled up, so that every row is computed in the same shape.
        full = [*jobs, *[jobs[-1]] * (self._config.batch_size - num)]
        indices = [job.index for job in full]
        z_img = self._z_img(full)
        decoded = self._unclip.decode(z_img, [job.caption for job in full], seed, indices)
        z_txt = self._unclip.encode([job.prompt for job in full]).z_txt
        if jobs[0].kind == FINAL:
            final = self._unclip.upsample(decoded, seed, indices)
            yield self._made(FINAL, jobs, final, z_img, z_txt)
            if not self._config.upsamplers:
                return
        kind = DECODER if jobs[0].kind == FINAL else jobs[0].kind
        yield self._made(kind, jobs, decoded, z_img, z_txt)

    def _z_img(self, jobs: Sequence[PictureJob]) -> Tensor:
        texts = [job.z_img_prompt for job in jobs]
        if any(text is None for text in texts):  # all jobs of a partition are of one kind
            return self._mean.expand(len(jobs), -1)
        numbers = [job.z_img_index for job in jobs]
        return self._unclip.sample_prior([str(t) for t in texts], self._config.seed, numbers)

    def _made(
        self, kind: str, jobs: Sequence[PictureJob], pictures: Tensor, z_img: Tensor, z_txt: Tensor
    ) -> _Made:
        z_of_picture = self._unclip.encode_pictures(pictures)
        num = len(jobs)
        own, text, seen = (z[:num].float().cpu().numpy() for z in (z_img, z_txt, z_of_picture))
        return _Made(jobs, kind, to_images(pictures[:num]), own, text, seen)

    def _judged(self, made: list[_Made]) -> list[_Made]:
        """Pictures of one batch in every size; what is withheld in one is so in all."""
        if self._rules is None:
            return made
        prompts = [job.prompt for job in made[0].jobs]
        each = [self._rules(prompts, m.images, m.z_img_of_picture) for m in made]
        verdicts = [worst(sizes) for sizes in zip(*each, strict=True)]
        return [replace(m, verdicts=verdicts) for m in made]

    def _png(self, made: _Made, place: int) -> bytes:
        image, facts = made.images[place], self._provenance(made.jobs[place], made.kind)
        if made.verdicts:
            image, facts = shown(image, made.verdicts[place]), facts | made.verdicts[place].facts()
        return png_bytes(image, facts)

    def _provenance(self, job: PictureJob, kind: str) -> dict[str, str]:
        return {
            "Prompt": job.prompt,
            "Seed": str(self._config.seed),
            "Picture": str(job.index),
            "Kind": kind,
            **models_as_facts(self._fingerprints()),
        }

    def _fingerprints(self) -> dict[str, str]:
        return dict(self._unclip.stack.fingerprints)

    def _publish(self, number: int, made: Sequence[_Made]) -> dict[str, Any]:
        name = shard_name(number)
        folder = manifest_folder(self._uri)
        rows = sorted(
            ((key_of(m.kind, job), m, place) for m in made for place, job in enumerate(m.jobs)),
            key=lambda row: row[0],
        )
        table = embedding_table(rows)
        parquet_sha256 = publish_table(storage.join(folder, parquet_name(name)), table)
        with storage.open_for_publish(storage.join(folder, name)) as file:
            writer = TarShardWriter(file)
            for key, m, place in rows:
                metadata = self._metadata(key, m.kind, m.jobs[place])
                if m.verdicts:
                    metadata["safety"] = m.verdicts[place].as_json()
                writer.add(texts(metadata), self._png(m, place), PICTURE_EXTENSION)
            entry = writer.close(name, parquet_sha256)
        return entry.as_json()

    def _metadata(self, key: str, kind: str, job: PictureJob) -> dict[str, Any]:
        return {
            **job.as_json(),
            "key": key,
            "kind": kind,
            "captions": [job.prompt],
            "seed": self._config.seed,
            "settings": self._config.sampling.model_dump(mode="json"),
            "models": self._fingerprints(),
        }


def key_of(kind: str, job: PictureJob) -> str:
    """Name of a picture of this kind in its shard."""
    return f"{kind}-{job.index:08d}"


def embedding_table(rows: Sequence[tuple[str, _Made, int]]) -> pa.Table:
    """Embeddings beside a shard: the prior's z_img, the caption's z_txt, the picture's z_img."""

    def vectors(name: str) -> pa.Array:
        found = np.stack([getattr(made, name)[place] for _, made, place in rows])
        flat = pa.array(found.astype(np.float16).reshape(-1), pa.float16())
        return pa.FixedSizeListArray.from_arrays(flat, found.shape[1])

    return pa.table(
        {
            "key": pa.array([key for key, _, _ in rows], pa.string()),
            "kind": pa.array([made.kind for _, made, _ in rows], pa.string()),
            "index": pa.array([made.jobs[place].index for _, made, place in rows], pa.int64()),
            "z_img": vectors("z_img"),
            "z_txt": vectors("z_txt"),
            "z_img_of_picture": vectors("z_img_of_picture"),
        }
    )
