"""Tables of codes, fitted once by the driver from the training split's embeddings.

``codes.safetensors`` holds what ``models.codes.fit_codes`` found, ``codes.json`` (written last)
what was measured; a resumed training takes what lies there. Dimension names: ``row``, ``dim``.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors.numpy import load

from pipeline import storage
from pipeline.errors import DataError
from pipeline.models.codes import Arrays, EmbeddingCodes, fit_codes
from pipeline.shards.embedding_files import EmbeddedDataset, EmbeddedShard, cosine
from pipeline.shards.keep_list import KeepList
from pipeline.shards.z_statistics import as_file, chosen_shards
from pipeline.training.config import AutoregressivePriorTaskConfig

CODES, FACTS = "codes.safetensors", "codes.json"


def publish_codes(
    config: AutoregressivePriorTaskConfig, embedded: EmbeddedDataset, keep: KeepList, uri: str
) -> dict[str, Any]:
    """Fit the tables from training samples, unless they lie there already.

    Args:
        config: How many components and buckets, from how many samples.
        embedded: The data set's embeddings.
        keep: Which samples are trained on.
        uri: Folder of the stage.

    Returns:
        ``num_components, num_samples, squared_error`` (measured, as a share of the variance) and
        the ``sha256`` of the tables.
    """
    facts_uri = storage.join(uri, FACTS)
    if storage.exists(facts_uri):
        return storage.read_json(facts_uri)
    z_img, dots = _training_rows(embedded, keep, config.codes_samples)
    model = config.model
    tables, squared_error = fit_codes(
        embedded.pca(),
        z_img,
        dots,
        max_error=config.max_pca_error,
        num_buckets=model.num_buckets,
        dot_buckets=model.dot_buckets,
    )
    content = as_file(tables)
    storage.write_bytes(storage.join(uri, CODES), content)
    facts = {
        "num_components": len(tables["components"]),
        "num_samples": len(z_img),
        "squared_error": squared_error,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    storage.write_json(facts_uri, facts)
    return facts


def read_tables(uri: str) -> Arrays:
    """The tables of one file."""
    return load(storage.read_bytes(uri))


def coding_errors(
    codes: EmbeddingCodes,
    variance: Float32[np.ndarray, " component"],
    z_img: Float[torch.Tensor, " row dim"],
) -> dict[str, list[float]]:
    """What coding and decoding cost each embedding, as shares of the data's whole variance.

    Args:
        codes: The tables.
        variance: Of all principal components, as the embed stage stores it.
        z_img: Raw embeddings.

    Returns:
        ``left_out`` (squared error of leaving out components) and ``coded`` (of all).
    """
    total = float(variance.sum(dtype=np.float64))
    centred = z_img - codes.z_mean
    projected = centred @ codes.components.T @ codes.components
    decoded = codes.decode(codes.encode(z_img))
    errors = {"left_out": centred - projected, "coded": z_img - decoded}
    return {name: ((e**2).sum(dim=1) / total).tolist() for name, e in errors.items()}


def _training_rows(
    embedded: EmbeddedDataset, keep: KeepList, max_samples: int
) -> tuple[Float32[np.ndarray, " row dim"], Float32[np.ndarray, " pair"]]:
    z_img, dots = [], []
    for shard in chosen_shards(keep.counts("train"), max_samples):
        keys = keep.keys(shard, "train")
        if keys:
            found = embedded.shard(shard, keys)
            z_img.append(found.z_img.astype(np.float32))
            dots.append(cosine(found.z_img[owners(found)], found.z_txt))
    if not z_img:
        raise DataError("the keep-list has no training sample; look at select's thresholds")
    return np.concatenate(z_img), np.concatenate(dots)


def owners(shard: EmbeddedShard) -> np.ndarray:
    """The sample of each caption of a shard."""
    return np.repeat(np.arange(len(shard.z_img)), np.diff(shard.bounds))
