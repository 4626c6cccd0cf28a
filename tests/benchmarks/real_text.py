"""Real captions against the real WordNet: ids equal to the reference, and what balancing leaves.

Every caption's ids are compared with ``tests/matching_reference.py``, which tries every query; that
takes about two minutes per profile. Needs ``apt-get install wordnet-base`` and a table of addresses
and captions: ``python -m tests.benchmarks.real_text --pairs pairs.parquet``.
"""

import argparse
import json
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.candidates import rows, schema
from pipeline.queries import balancing, query_list
from pipeline.queries.config import BalanceConfig, Profile, QueriesConfig
from pipeline.queries.matching import Matcher
from tests.matching_reference import find

LIMIT = 20


def main() -> int:
    """Check and report both profiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", required=True, help="Parquet of addresses and captions")
    parser.add_argument("--columns", nargs=2, default=("URL", "TEXT"), metavar=("URL", "CAPTION"))
    parser.add_argument("--wordnet", default="/usr/share/wordnet")
    arguments = parser.parse_args()
    read = pq.read_table(arguments.pairs, columns=list(arguments.columns))
    candidates = rows.build(rows.RawRows(*(column.to_pylist() for column in read.columns)))
    profiles: tuple[Profile, ...] = ("literal", "normalised")
    print(json.dumps([_report(candidates.table, arguments.wordnet, each) for each in profiles]))
    return 0


def _report(candidates: pa.Table, wordnet: str, profile: Profile) -> dict:
    sources = [{"type": "wordnet", "path": wordnet}]
    config = QueriesConfig.model_validate({"sources": sources, "profile": profile})
    queries = query_list.build(config, None).queries
    captions = candidates.column(schema.CAPTION)
    ids = Matcher(queries, profile).match(captions)
    started = time.perf_counter()
    if ids.to_pylist() != find(queries, captions.to_pylist(), profile):
        raise AssertionError(f"profile {profile}: ids differ from the reference")
    reference_s = time.perf_counter() - started
    uids, counted = candidates.column(schema.UID), balancing.count(ids)
    counts = balancing.merge_counts([counted], len(queries))
    report = {
        "profile": profile,
        "queries": len(queries),
        "captions": len(ids),
        "reference_s": reference_s,
        "matched_share": float(np.mean(ids.value_lengths().to_numpy() > 0)),
        "largest_before": _largest(queries, counts),
    }
    for mode in ("sample", "cap"):
        balance = BalanceConfig.model_validate({"mode": mode, "per_query_limit": LIMIT, "seed": 0})
        kept = _kept(uids, ids, counts, balance)
        after = balancing.merge_counts([balancing.count(ids.filter(kept))], len(queries))
        report[mode] = {"kept": int(np.sum(kept)), "largest_after": _largest(queries, after)}
        print(f"{profile} {mode} {report[mode]}", file=sys.stderr)
    return report


def _kept(
    uids: pa.ChunkedArray, ids: pa.ListArray, counts: np.ndarray, config: BalanceConfig
) -> np.ndarray:
    if config.mode == "sample":
        return balancing.keep_sampled(uids, ids, counts, config).mask
    ranks = balancing.merge_ranks([balancing.ranks(uids, ids, counts, config)], config)
    highest = balancing.thresholds(ranks, len(counts), config)
    return balancing.keep_capped(uids, ids, counts, highest, config).mask


def _largest(queries: list[str], counts: np.ndarray) -> tuple[str, int]:
    return queries[int(counts.argmax())], int(counts.max())


if __name__ == "__main__":
    sys.exit(main())
