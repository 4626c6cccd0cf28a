"""The text side in one process: the same pairs whatever the partitioning, and the right ones."""

import csv
import json
from collections import Counter
from dataclasses import replace
from itertools import chain

import pytest

from pipeline import storage
from pipeline.candidates import schema, sources
from pipeline.candidates.config import UrlTableConfig
from pipeline.curation import limits, match
from pipeline.curation.config import BalanceStageConfig
from pipeline.draws import generator
from pipeline.queries import query_list
from pipeline.queries.config import QueriesConfig
from pipeline.shards.writer import read_table
from tests.matching_reference import find

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
QUERIES = ["alpha", "alpha beta", "beta", "gamma", "zeta"]
MAX_REPEATS, LIMIT, NUM_ROWS = 4, 25, 900


def pairs():
    """Addresses on a few domains; some captions are frequent, some pairs are there twice."""
    rng = generator(0, "pairs", 0)
    rows = []
    for index in range(NUM_ROWS):
        words = [WORDS[min(int(n), 5)] for n in rng.geometric(0.4, 3) - 1]
        url = f"http://site{int(rng.integers(9))}.example/{index}.jpg"
        rows.append((url, " ".join(words) + (f" {index}" if rng.random() < 0.7 else "")))
    return rows + rows[::10] + [("http://site0.example/short.jpg", "beta")]


def plan_of(folder, num_files, num_buckets, mode):
    (folder / "urls").mkdir(parents=True)
    for number in range(num_files):
        with (folder / "urls" / f"{number}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("url", "caption"), *pairs()[number::num_files]])
    (folder / "list.json").write_text(json.dumps(QUERIES))
    listed = [{"type": "list", "path": str(folder / "list.json")}]
    queries = QueriesConfig.model_validate({"sources": listed, "profile": "normalised"})
    query_list.write(query_list.build(queries, None), str(folder / "queries.parquet"))
    config = BalanceStageConfig.model_validate(
        {
            "mode": mode,
            "per_query_limit": LIMIT,
            "seed": 1,
            "captions": {"max_repeats": MAX_REPEATS},
            "num_buckets": num_buckets,
        }
    )
    source = UrlTableConfig(type="url_table", path=str(folder / "urls"))
    return match.Plan(
        config=config,
        source=source,
        parts=tuple(sources.plan(source)),
        queries_uri=str(folder / "queries.parquet"),
        profile="normalised",
        uri=str(folder / "stage"),
    )


def run(plan):
    """Balanced pairs of all buckets as (url, caption, query ids), and the drop reasons."""
    buckets = range(plan.num_buckets)
    done = [match.match_part(plan, part) for part in range(len(plan.parts))]
    for step in (match.gather_bucket, match.find_repeats, match.count_bucket):
        done += [step(plan, bucket) for bucket in buckets]
    done.append(limits.merge_counts(plan))
    if plan.config.mode == "cap":
        for step in (limits.rank_bucket, limits.find_thresholds):
            done += [step(plan, bucket) for bucket in buckets]
        done.append(limits.merge_thresholds(plan))
    done += [limits.keep_bucket(plan, bucket) for bucket in buckets]
    folder = storage.join(plan.uri, limits.PAIRS)
    tables = [read_table(storage.join(folder, name)) for name in storage.list_names(folder)]
    dropped = sum((Counter(finished["dropped"]) for finished in done), Counter())
    columns = [schema.URL, schema.CAPTION, schema.QUERY_IDS]
    rows = chain.from_iterable(table.select(columns).to_pylist() for table in tables)
    return {(row["url"], row["caption"], tuple(row["query_ids"])) for row in rows}, dropped


def expected():
    """Distinct matched pairs without repeated captions; counts per query; drop reasons."""
    distinct = list(dict.fromkeys(row for row in pairs() if " " in row[1]))
    found = find(QUERIES, [caption for _, caption in distinct], "normalised")
    matched = [(*pair, tuple(ids)) for pair, ids in zip(distinct, found, strict=True) if ids]
    repeats = Counter(caption for _, caption, _ in matched)
    stay = [pair for pair in matched if repeats[pair[1]] <= MAX_REPEATS]
    dropped = {
        "caption_too_short": 1,
        "no_query": sum(not ids for ids in find(QUERIES, [c for _, c in pairs()], "normalised")),
        "repeated_caption": len(matched) - len(stay),
    }
    dropped["duplicate_pair"] = len(pairs()) - 1 - dropped["no_query"] - len(matched)
    return stay, Counter(query for *_, ids in stay for query in ids), dropped


@pytest.mark.parametrize("mode", ["cap", "sample"])
def test_the_same_pairs_stay_whatever_the_partitioning(mode, tmp_path):
    splits = [(1, 1), (2, 7), (7, 2)]
    results = [run(plan_of(tmp_path / str(each), *each, mode)) for each in splits]
    assert results[1:] == results[:1] * 2
    kept, dropped = results[0]
    stay, counts, others = expected()
    assert kept < set(stay)
    assert dropped == others | {"over_query_limit": len(stay) - len(kept)}
    assert others["repeated_caption"] > 50
    if mode == "cap":
        owners = [min(ids, key=lambda query: (counts[query], query)) for *_, ids in kept]
        every = [min(ids, key=lambda query: (counts[query], query)) for *_, ids in stay]
        limited = {query: min(LIMIT, num) for query, num in Counter(every).items()}
        assert Counter(owners) == limited


def test_the_counts_are_those_of_the_pairs_that_may_be_crawled(tmp_path):
    plan = plan_of(tmp_path, 2, 3, "cap")
    run(plan)
    _, counts, _ = expected()
    assert limits.query_counts(plan).tolist() == [counts[query] for query in range(len(QUERIES))]


def test_matched_captions_of_other_languages_fall_by_that_reason(tmp_path):
    plan = plan_of(tmp_path, num_files=1, num_buckets=2, mode="cap")
    before = match.match_part(plan, 0)
    captions = plan.config.captions.model_copy(
        update={"languages": ("ja", "ko"), "min_language_score": 0.5}
    )
    config = plan.config.model_copy(update={"captions": captions})
    after = match.match_part(replace(plan, config=config), 0)
    assert after["kept"] == 0
    assert after["dropped"] == before["dropped"] | {"other_language": before["kept"]}
    assert before["kept"] > 0


def test_a_step_done_twice_writes_the_same_bytes(tmp_path):
    plan = plan_of(tmp_path, 2, 3, "cap")
    run(plan)
    files = sorted((tmp_path / "stage").rglob("*.*"))
    before = [path.read_bytes() for path in files]
    run(plan)
    assert [path.read_bytes() for path in files] == before
