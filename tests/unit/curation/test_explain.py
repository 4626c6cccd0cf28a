"""Every pair that balancing dropped is told the reason for which it fell, with its numbers."""

import csv
import io
import json
import weakref

import pytest

from pipeline import steps, storage
from pipeline.candidates import sources, urls
from pipeline.candidates.config import FolderConfig, UrlTableConfig
from pipeline.config import semantic
from pipeline.curation import balance
from pipeline.curation.config import BalanceStageConfig
from pipeline.curation.explain import Asked, explain
from pipeline.draws import generator
from pipeline.progress import Progress
from pipeline.queries import query_list
from pipeline.queries.config import QueriesConfig
from pipeline.results import publish_result
from pipeline.shards.writer import read_table

WORDS = ["alpha", "beta", "gamma", "delta", "of the house", "with a red door", "zeta"]
GERMAN = "alpha ein schöner roter Kreis auf einem weißen Hintergrund Nummer {}"
CAPTIONS = {"max_repeats": 4, "max_chars": 80, "languages": ["en"], "min_language_score": 0.05}
NUM_ROWS, HOST_LIMIT, LIMIT = 500, 30, 12


def rows():
    """Captions of every fate; some stand on many addresses, one host has most pictures."""
    rng = generator(0, "rows", 0)
    found = []
    for index in range(NUM_ROWS):
        words = " ".join(WORDS[int(n)] for n in rng.integers(7, size=3))
        host = "large" if rng.random() < 0.3 else f"site{int(rng.integers(9))}"
        caption = f"a picture {words}" + (f" {index}" if rng.random() < 0.8 else "")
        if index % 25 == 0:
            caption = GERMAN.format(index)
        elif index % 25 == 1:
            caption = f"{caption} " * 6
        elif index % 25 == 2:
            caption = "zeta"
        elif index % 25 == 3:
            caption = "alpha of the house stands everywhere"
        elif index % 25 == 4:
            caption = f"a picture without any {index}"
        found.append((f"http://{host}.example/{index}.jpg", caption))
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Source, queries, and a balance that keeps all its rejects."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "urls").mkdir()
    for number in range(3):
        with (folder / "urls" / f"{number}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("url", "caption"), *rows()[number::3]])
    (folder / "list.json").write_text(json.dumps(["alpha", "beta", "gamma", "house"]))
    listed = [{"type": "list", "path": str(folder / "list.json")}]
    config = QueriesConfig.model_validate({"sources": listed, "profile": "normalised"})
    place = storage.join(str(folder / "queries"), query_list.FILE)
    query_list.write(query_list.build(config, None), place)
    queries = finished(folder / "queries", config, {})
    source = UrlTableConfig(type="url_table", path=str(folder / "urls"))
    limits = BalanceStageConfig.model_validate(
        {
            "mode": "cap",
            "per_query_limit": LIMIT,
            "seed": 1,
            "captions": CAPTIONS,
            "num_buckets": 3,
            "max_pictures_per_host": HOST_LIMIT,
            "rejects_per_reason": NUM_ROWS,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "map_partitions", lambda work, given: map(work, given))
        uri = str(folder / "balance")
        output = balance.balance(limits, source, queries, uri, Progress(io.StringIO()))
    return source, queries, finished(folder / "balance", limits, output.content)


def finished(folder, config, content):
    return publish_result(
        str(folder),
        stage=folder.name,
        identity="x",
        config=semantic(config),
        inputs={},
        content=content,
        circumstance={},
    )


def test_every_rejected_pair_is_told_the_reason_for_which_it_fell(world):
    rejected = read_table(storage.join(world[2].uri, balance.REJECTS)).to_pylist()
    fates = {row["uid"]: row["drop_reason"] for row in rejected}
    assert set(fates.values()) == {
        "caption_too_short",
        "caption_too_long",
        "no_query",
        "other_language",
        "repeated_caption",
        "over_host_limit",
        "over_query_limit",
    }
    by_reason = {}
    for uid, reason in fates.items():
        by_reason.setdefault(reason, []).append(uid)
    for reason, uids in by_reason.items():
        for uid in uids[:3]:
            (told,) = explain(Asked(uid=uid), *world)
            assert (told["drop_reason"], told["uid"], told["kept"]) == (reason, uid, False)


def told(world, reason):
    rejected = read_table(storage.join(world[2].uri, balance.REJECTS)).to_pylist()
    row = next(each for each in rejected if each["drop_reason"] == reason)
    (found,) = explain(Asked(key=row["key"], url=row["url"]), *world)
    return found


def test_reasons_come_with_the_numbers_that_decided(world):
    long = told(world, "caption_too_long")
    assert long["num_chars"] > long["max_chars"] == CAPTIONS["max_chars"]
    german = told(world, "other_language")
    assert german["language_score"] < german["min_language_score"] == 0.05
    assert german["languages"] == ["en"]
    crowded = told(world, "over_host_limit")
    assert (crowded["host"], crowded["max_pictures_per_host"]) == ("large.example", HOST_LIMIT)
    assert told(world, "repeated_caption")["num_pictures"] > CAPTIONS["max_repeats"]


def test_nothing_is_told_of_what_no_source_holds(world):
    assert list(explain(Asked(uid="0" * 32), *world)) == []


def test_a_part_of_the_source_is_let_go_when_the_next_one_is_read(world, monkeypatch):
    source, queries, balanced = world
    alive, most = [], []
    read = sources.read

    def counted(config, part):
        most.append(sum(each() is not None for each in alive))
        found = read(config, part)
        alive.append(weakref.ref(found.table))
        return found

    monkeypatch.setattr(sources, "read", counted)
    uid = urls.uid(urls.url_id(rows()[5][0]), rows()[5][1])
    list(explain(Asked(uid=uid), source, queries, balanced))
    assert len(most) >= 6
    assert max(most) <= 1


def test_files_of_a_folder_have_no_host_that_could_be_crowded(world, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"?")
    (tmp_path / "a.txt").write_text("a picture of the house with a red door")
    (found,) = explain(
        Asked(key=urls.url_id(urls.local("a.jpg"))),
        FolderConfig(type="folder", path=str(tmp_path)),
        *world[1:],
    )
    assert found["drop_reason"] == "over_query_limit"
