"""FAISS k-means and a loop over its clusters, in an interpreter of its own.

``python selection_peer.py <folder>`` reads ``vectors.npy`` and ``settings.json`` there and, per
line of its standard input, does all of the work once and tells CPU seconds, memory and where the
pairs lie.
"""

import json
import resource
import sys
import time
from pathlib import Path

import faiss
import numpy as np


def main(folder: Path) -> None:
    """Answer until the input ends."""
    settings = json.loads((folder / "settings.json").read_text())
    for _ in sys.stdin:
        started = time.process_time()
        pairs = duplicates(np.load(folder / "vectors.npy").astype(np.float32), settings)
        seconds = time.process_time() - started
        place = folder / "peer-pairs.npy"
        np.save(place, pairs)
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "rss": rss, "pairs": str(place)}), flush=True)


def duplicates(x: np.ndarray, settings: dict) -> np.ndarray:
    """Rows of pairs, the lower first."""
    faiss.normalize_L2(x)
    kmeans = faiss.Kmeans(
        x.shape[1],
        settings["clusters"],
        niter=settings["iterations"],
        spherical=True,
        seed=1,
        max_points_per_centroid=settings["sample_per_cluster"],
    )
    kmeans.train(x)
    _, found = kmeans.index.search(x, 1)
    order = np.argsort(found[:, 0], kind="stable")
    ends = np.cumsum(np.bincount(found[:, 0], minlength=settings["clusters"]))
    parts = [np.empty((0, 2), np.int64)]
    for rows in np.split(order, ends[:-1]):
        similarities = x[rows] @ x[rows].T
        first, second = np.nonzero(np.triu(similarities >= settings["floor"], 1))
        parts.append(np.sort(np.stack([rows[first], rows[second]], axis=1), axis=1))
    return np.concatenate(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
