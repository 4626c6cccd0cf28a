"""The queries as a tree of tokens, which all tokens of many texts walk at once.

A node is a run of tokens that begins at least one query. Its children are found in a table of
(node, token) pairs, so a walk takes one step per token of the longest query that it meets.

Dimensions: ``token`` of all texts or queries, in order; ``row`` a token whose walk goes on;
``node`` of the tree; ``match`` a (text, query) pair; ``bound``: one more than texts or queries.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Int, Int64

from pipeline.queries.tokens import Tokens
from pipeline.queries.vocabulary import UNKNOWN, Table, Vocabulary, pair_keys

_LOW = 0xFFFFFFFF


class QueryTree:
    """Finds every query whose tokens stand in a row in a text."""

    def __init__(self, queries: Tokens) -> None:
        """Build the tree.

        Args:
            queries: Tokens of the queries, at least one of each; a query's position is its id.
        """
        starts, ends = queries.start.tolist(), (queries.start + queries.length).tolist()
        contents = [queries.data[a:b] for a, b in zip(starts, ends, strict=True)]
        coded = pa.array(contents, pa.binary()).dictionary_encode()
        self._vocabulary = Vocabulary(coded.dictionary)
        self._num_tokens = len(coded.dictionary)
        last_node = self._build(coded.indices.to_numpy().astype(np.int64), queries.first)
        # Ids by the node that a query ends at: several where queries have the same tokens.
        self._ids = np.argsort(last_node, kind="stable")
        self._num_ids = np.bincount(last_node, minlength=len(self._goes_on)).astype(np.int32)
        self._first_id = (np.cumsum(self._num_ids) - self._num_ids).astype(np.int32)

    def find(self, texts: Tokens) -> tuple[Int64[np.ndarray, " match"], Int64[np.ndarray, " text"]]:
        """Ids of the queries in each text, ascending and each once, and their number per text."""
        token, text, following = self._numbered(texts)
        row = np.flatnonzero(token != UNKNOWN)
        node, place = token[row].astype(np.int64), row
        found = [np.zeros(0, np.int64)]
        while row.size:
            found.append(self._ending_at(node, text[row]))
            going = np.flatnonzero(self._goes_on[node] & (following[place] != UNKNOWN))
            row, node, place = row[going], node[going], place[going]
            edge = self._edges.find(pair_keys(node, following[place]))
            hit = np.flatnonzero(edge != UNKNOWN)
            row, node, place = (
                row[hit],
                edge[hit].astype(np.int64) + self._num_tokens,
                place[hit] + 1,
            )
        matches = np.sort(np.concatenate(found))
        matches = matches[np.diff(matches, prepend=-1) != 0]
        return matches & _LOW, np.bincount(matches >> 32, minlength=len(texts.first) - 1)

    def _build(
        self, token: Int64[np.ndarray, " token"], first: Int64[np.ndarray, " bound"]
    ) -> Int64[np.ndarray, " query"]:
        """Make nodes, level by level; returns the node that each query ends at.

        Args:
            token: Number of each token in the vocabulary, and of the node that it alone leads to.
            first: First token of each query.
        """
        num_tokens = np.diff(first)
        node, going = token[first[:-1]], np.arange(len(num_tokens))
        last_node, level, num_nodes = node.copy(), 1, self._num_tokens
        keys, inner = [np.zeros(0, np.uint64)], [node[:0]]
        while (further := np.flatnonzero(num_tokens[going] > level)).size:
            going, node = going[further], node[further]
            inner.append(node)
            pairs, child = np.unique(
                pair_keys(node, token[first[going] + level]), return_inverse=True
            )
            keys.append(pairs)
            node = num_nodes + child
            last_node[going] = node
            level, num_nodes = level + 1, num_nodes + len(pairs)
        self._edges = Table(np.concatenate(keys))
        self._goes_on = np.zeros(num_nodes, bool)
        self._goes_on[np.concatenate(inner)] = True
        return last_node

    def _numbered(
        self, texts: Tokens
    ) -> tuple[Int[np.ndarray, " token"], Int64[np.ndarray, " token"], Int[np.ndarray, " token"]]:
        """Each token's number, its text, and the number of the next token of the same text."""
        token = self._vocabulary.find(texts)
        num_tokens = np.diff(texts.first)
        text = np.repeat(np.arange(len(num_tokens)), num_tokens)
        following = np.full(len(token), UNKNOWN, token.dtype)
        following[:-1] = token[1:]
        following[texts.first[1:][num_tokens > 0] - 1] = UNKNOWN
        return token, text, following

    def _ending_at(
        self, node: Int64[np.ndarray, " row"], text: Int64[np.ndarray, " row"]
    ) -> Int64[np.ndarray, " match"]:
        """The queries that end at nodes, as text × 2^32 + id."""
        num = self._num_ids[node]
        ending = np.flatnonzero(num)
        node, num = node[ending], num[ending]
        skipped = np.cumsum(num) - num
        place = np.repeat(self._first_id[node] - skipped, num) + np.arange(num.sum())
        return np.repeat(text[ending] << 32, num) | self._ids[place]
