"""The linear prior in closed form: one pass over the training split's embeddings, shard by shard.

Memory is one shard and two square matrices, whatever the number of samples. A sample counts once,
its captions share its weight. Dimension names: ``pair`` (picture and caption), ``dim``.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional

from pipeline import storage, weights_file
from pipeline.config import semantic
from pipeline.errors import DataError
from pipeline.models.presets import build_linear_prior, num_parameters
from pipeline.models.prior_linear import LinearPrior, RidgeSums
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import KeepList, keep_list
from pipeline.training.codes import owners
from pipeline.training.config import LinearPriorTraining
from pipeline.training.device import fixed_arithmetic

WEIGHTS = "weights.safetensors"
Pairs = tuple[Float64[Tensor, " pair dim"], Float64[Tensor, " pair dim"], Float64[Tensor, " pair"]]
"""z_txt, z_img and the weight of every pair of a shard."""


def fit_linear_prior(
    config: LinearPriorTraining, inputs: Mapping[str, Result], uri: str, progress: Progress
) -> StageOutput:
    """Fit the prior and publish its weights as every training does.

    Args:
        config: The section.
        inputs: ``curate``, ``clip``, ``embed``, ``select``.
        uri: Folder of the stage.
        progress: Where to tell people how far it is.

    Returns:
        Content with weights, sizes and held-out metrics.

    Raises:
        DataError: There is no training sample, or an input is damaged.
    """
    started = time.time()
    embedded = EmbeddedDataset(inputs["embed"], CuratedDataset(inputs["curate"]))
    keep = keep_list(inputs["select"], config.profile)
    keep.verify()
    with fixed_arithmetic(config.execution.threads):
        prior = _fitted(config, embedded, keep, progress)
        metrics = _held_out(prior, embedded, keep)
    hashes = {name: result.manifest_hash for name, result in inputs.items()}
    weights = storage.join(uri, WEIGHTS)
    published = {**semantic(config), "inputs": hashes}
    weights_file.export_weights(weights, prior.state_dict(), published, config.task.type)
    content: dict[str, Any] = {
        "weights": {
            "name": WEIGHTS,
            "sha256": storage.sha256_of(weights),
            "num_bytes": storage.size_of(weights),
        },
        "final": metrics,
        "num_parameters": num_parameters(prior),
        "samples": sum(keep.counts("train")),
    }
    return StageOutput(content, [(started, time.time())])


def _fitted(
    config: LinearPriorTraining, embedded: EmbeddedDataset, keep: KeepList, progress: Progress
) -> LinearPrior:
    sums = RidgeSums(embedded.dim)
    total = sum(keep.counts("train"))
    with progress.stage("linear prior", total=total, unit="samples") as bar:
        for z_txt, z_img, weights in _pairs(embedded, keep, "train"):
            sums.add(z_txt, z_img, weights)
            bar.advance(round(float(weights.sum())))
    if not sums.weight:
        raise DataError("the keep-list has no training sample; look at select's thresholds")
    prior = build_linear_prior(config.task.model)
    prior.set_solution(*sums.solve(config.task.model.ridge))
    return prior


def _pairs(embedded: EmbeddedDataset, keep: KeepList, split: str) -> Iterator[Pairs]:
    for shard, count in enumerate(keep.counts(split)):
        if count:
            rows = keep.rows(shard, split)
            found = embedded.shard(shard, rows["key"].to_pylist())
            owner = owners(found)
            shares = (keep.weights(rows, split) / np.bincount(owner, minlength=count))[owner]
            pairs = (found.z_txt, found.z_img[owner], shares)
            z_txt, z_img, weights = (torch.from_numpy(x.astype(np.float64)) for x in pairs)
            yield z_txt, z_img, weights


@torch.no_grad()
def _held_out(prior: LinearPrior, embedded: EmbeddedDataset, keep: KeepList) -> dict[str, float]:
    """Squared error per dimension and cosine over the validation split; empty without one."""
    total = error = cosine = 0.0
    for z_txt, z_img, weights in _pairs(embedded, keep, "validation"):
        found = prior(z_txt.float()).double()
        error += float((((found - z_img) ** 2).mean(dim=1) * weights).sum())
        cosine += float((functional.cosine_similarity(found, z_img) * weights).sum())
        total += float(weights.sum())
    if not total:
        return {}
    return {"validation_loss": error / total, "validation_cosine_to_z_img": cosine / total}
