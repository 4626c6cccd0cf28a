"""From pairs of semantic duplicates: who survives, and what no split may part.

Only rows that stand in a pair are held. Survivors are leaders taken greedily: in the order of
larger side, higher similarity, smaller key, a sample falls if it has a pair with a leader before
it, and leads otherwise; nothing chains through a dropped one. Splits must part no pair at all, so
there the groups are what pairs connect.
"""

import numpy as np
from jaxtyping import Bool, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.selection.columns import Columns
from pipeline.selection.semantic import LEADING
from pipeline.shards.keep_list import split_draws
from pipeline.shards.select_config import SplitConfig


class SemanticDuplicates:
    """The pairs from a cosine on, and their rows."""

    def __init__(self, columns: Columns, min_cosine: float) -> None:
        """Read the pairs and what decides between their rows.

        Args:
            columns: The scores.
            min_cosine: The lowest that any profile asks for.
        """
        parts = [*columns.scored.pairs(min_cosine)]
        empty = np.empty(0, np.int64)
        a, b = (np.concatenate([empty, *(part[side] for part in parts)]) for side in (0, 1))
        self._cosine = np.concatenate([np.empty(0, np.float32), *(part[2] for part in parts)])
        self.rows = np.unique(np.concatenate([a, b]))
        """Global rows that stand in a pair, ascending."""
        self._a, self._b = np.searchsorted(self.rows, a), np.searchsorted(self.rows, b)
        table = columns.take(["key", "side_px", "similarity", "cluster"], self.rows)
        self._clusters = table["cluster"].combine_chunks().dictionary_encode()
        # Who leads is of another order than the rows.
        numbered = table.append_column("place", [np.arange(table.num_rows)])
        self._rank = np.empty(table.num_rows, np.int64)
        self._rank[numbered.sort_by(LEADING)["place"].to_numpy()] = np.arange(table.num_rows)

    def fallen(
        self, alive: Bool[np.ndarray, " row"], min_cosine: float
    ) -> Int64[np.ndarray, " fallen"]:
        """Global rows that a leader stands for.

        Args:
            alive: Of every row of the data set, whether it may stay and lead.
            min_cosine: From which cosine on two samples are duplicates.
        """
        held = alive[self.rows]
        chosen = (self._cosine >= np.float32(min_cosine)) & held[self._a] & held[self._b]
        ranks = self._rank[self._a[chosen]], self._rank[self._b[chosen]]
        fallen = _followers(np.minimum(*ranks), np.maximum(*ranks), len(self.rows))
        return self.rows[fallen[self._rank]]

    def representatives(self, config: SplitConfig) -> dict[str, str]:
        """Cluster → the cluster whose split it shares, where that is another one.

        Of clusters that pairs connect, the one with the highest draw stands for all: if one of
        them is for training, all are. So what CLIP learnt from before there were embeddings is
        never held out later.
        """
        names = self._clusters.dictionary.to_pylist()
        codes = self._clusters.indices.to_numpy(zero_copy_only=False)
        edges = codes[self._a], codes[self._b]
        graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(len(names), len(names)))
        _, group = connected_components(graph, directed=False)
        by_name = np.argsort(np.asarray(names, object), kind="stable")
        draw = split_draws(names, config)
        # The last of each group in this order stands for it: highest draw, of equals least name.
        order = by_name[::-1][np.argsort(draw[by_name[::-1]], kind="stable")]
        stands = np.empty(len(names), np.int64)
        stands[group[order]] = order
        found = stands[group]
        return {names[at]: names[to] for at, to in enumerate(found.tolist()) if at != to}


def _followers(
    first: Int64[np.ndarray, " pair"], second: Int64[np.ndarray, " pair"], num_rows: int
) -> Bool[np.ndarray, " row"]:
    """Who falls, by rank: ``first`` comes before ``second`` and, if it leads, drops it."""
    order = np.argsort(first, kind="stable")
    second = second[order]
    leaders, starts = np.unique(first[order], return_index=True)
    ends = np.append(starts, len(second))[1:]
    fallen = np.zeros(num_rows, bool)
    for leader, start, end in zip(leaders.tolist(), starts.tolist(), ends.tolist(), strict=True):
        if not fallen[leader]:
            fallen[second[start:end]] = True
    return fallen
