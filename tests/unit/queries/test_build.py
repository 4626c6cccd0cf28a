"""The stage without Ray: partitions are done one after the other in this process."""

import io
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import steps, storage
from pipeline.candidates.config import UrlTableConfig
from pipeline.chain.stages import stages
from pipeline.config import load_run, semantic
from pipeline.errors import ConfigError, DataError
from pipeline.progress import Progress
from pipeline.queries.build import build_queries, sources_hash
from pipeline.queries.config import QueriesConfig
from pipeline.queries.matching import Matcher
from pipeline.run_file import RunFile
from tests import wikipedia_dump
from tests.wikipedia_dump import KINDS, PAGES, PAIRS, WORDS, write_views

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    monkeypatch.setattr(steps, "map_partitions", lambda work, rows: map(work, reversed(rows)))


def config(*sources, **values):
    return QueriesConfig.model_validate({"profile": "normalised", "sources": sources, **values})


def build(config, uri, candidates=None):
    """The list as query → (source, weight), and the stage's content."""
    output = build_queries(config, candidates, str(uri), Progress(io.StringIO()))
    rows = pq.read_table(uri / "queries.parquet").to_pylist()
    return {row["query"]: (row["source"], row["weight"]) for row in rows}, output.content


def words(path, min_count=1):
    return {"type": "wikipedia_words", "path": str(path), "min_count": min_count}


def bigrams(path, least=-0.9, min_count=1):
    rule = {"type": "npmi", "min_npmi": least, "min_count": min_count}
    return {"type": "wikipedia_bigrams", "path": str(path), "rule": rule}


LAYOUTS = [
    {},
    {"partition_bytes": 1024, "num_buckets": 3, "max_entries": 2},
    {"partition_bytes": 2048, "num_buckets": 1, "max_entries": 1},
]


@pytest.mark.parametrize("profile", ["literal", "normalised"])
@pytest.mark.parametrize("execution", LAYOUTS)
def test_words_and_pairs_are_those_counted_by_hand(tmp_path, profile, execution):
    wikipedia_dump.write_multistream(tmp_path / "dump-multistream.xml.bz2", PAGES)
    dump = tmp_path / "*.xml.bz2"
    asked = config(bigrams(dump), words(dump), profile=profile, order="clip", execution=execution)
    found, content = build(asked, tmp_path / "out")
    expected = {word: ("0-wikipedia_words", num) for word, num in WORDS[profile].items()}
    expected |= {pair: ("1-wikipedia_bigrams", num) for pair, num in PAIRS[profile].items()}
    assert found == expected
    assert content["admitted"] == {
        "0-wikipedia_words": len(WORDS[profile]),
        "1-wikipedia_bigrams": len(PAIRS[profile]),
    }
    facts = {
        "files": 1,
        "damaged_files": [],
        "pages": KINDS,
        "num_words": sum(WORDS[profile].values()),
    }
    assert content["counted"] == dict.fromkeys(content["admitted"], facts)
    assert content["damage"] == []
    assert sorted(storage.list_names(str(tmp_path / "out"))) == ["built.json", "queries.parquet"]


def test_rules_leave_out_and_account_for_what_they_leave_out(tmp_path):
    path = wikipedia_dump.write_plain(tmp_path / "a.xml", PAGES)
    found, content = build(config(words(path, 3), bigrams(path, 0.99, 2)), tmp_path / "out")
    # Of the pairs that stand twice, new and york never stand apart; is (2) and a (5) do.
    assert set(found) == {"a", "new", "york", "new york"}
    num_words, pairs = WORDS["normalised"], PAIRS["normalised"]
    assert content["left_out"] == {
        "0-wikipedia_words": {"below_min_count": len(num_words) - 3},
        "1-wikipedia_bigrams": {"below_min_count": len(pairs) - 3, "below_npmi": 2},
    }


def test_the_literal_rule_is_in_bits_and_needs_a_large_corpus(tmp_path):
    path = wikipedia_dump.write_plain(tmp_path / "a.xml", PAGES)
    num_words = sum(WORDS["normalised"].values())
    for bits, reached in ((math.log2(num_words) - 1e-6, True), (30, False)):
        source = bigrams(path) | {"rule": {"type": "pmi", "min_bits": bits}}
        found, content = build(
            config({"type": "numbers", "below": 1}, source), tmp_path / f"{bits}"
        )
        # Only words that stand once and beside each other reach log2(N) bits.
        once = {"cats sleep", "eats fish", "s parks", "small pet"}
        assert set(found) == {"0"} | (once if reached else set())
        left = len(PAIRS["normalised"]) - len(found) + 1
        assert content["left_out"]["1-wikipedia_bigrams"] == {"below_pmi": left}


def test_a_dump_is_read_once_for_all_sources_with_its_path(tmp_path, monkeypatch):
    from pipeline.queries import wikipedia

    path = wikipedia_dump.write_plain(tmp_path / "a.xml", PAGES)
    read, articles = [], wikipedia.articles
    monkeypatch.setattr(
        wikipedia, "articles", lambda row, reading: read.append(row) or articles(row, reading)
    )
    build(config(words(path, 1), words(path, 3), bigrams(path)), tmp_path / "out")
    assert len(read) == 1


def test_titles_are_summed_over_files_and_projects(tmp_path):
    write_views(tmp_path / "1.gz", ["en Cat 3 0", "en.m Cat 2 0", "en Dog 4 0", "en Rare 1 0"])
    write_views(tmp_path / "2", ["en Cat 1 0", "en Dog 6 0", "en Talk:Cat 9 0", "en Main_Page 9 0"])
    source = {
        "type": "page_views", "paths": [str(tmp_path / "*")], "projects": ["en", "en.m"],
        "min_views": 5, "min_views_per_file": 2,
    }  # fmt: skip
    for layout in LAYOUTS:
        asked = config(source, execution=layout)
        found, content = build(asked, tmp_path / "out" / str(len(layout)))
        assert found == {"Cat": ("0-page_views", 5), "Dog": ("0-page_views", 10)}
        assert content["left_out"] == {"0-page_views": {"main_page": 1, "namespace": 1}}
        assert content["counted"]["0-page_views"] == {
            "files": 2, "damaged_files": [], "lines": 8, "malformed_lines": 0,
        }  # fmt: skip
        if layout:
            break


def test_page_views_without_a_line_of_the_projects_are_refused(tmp_path):
    path = write_views(tmp_path / "a.gz", ["en Cat 9 0"])
    source = {"type": "page_views", "paths": [str(path)], "projects": ["fr"], "min_views": 1}
    with pytest.raises(DataError, match="none of 1 files has a line of the projects fr"):
        build(config(source), tmp_path / "out")


def test_captions_are_counted_once_each_and_stop_at_signs(tmp_path):
    captions = ["a red cat, asleep", "a red dog", "Red cat cat cat", "..."]
    lines = "".join(f"http://x.example/{n}\t{text}\n" for n, text in enumerate(captions))
    (tmp_path / "a.tsv").write_text(f"url\tcaption\n{lines}")
    candidates = UrlTableConfig(type="url_table", path=str(tmp_path / "a.tsv"))
    one = {"type": "captions", "max_words": 1, "min_count": 2}
    two = {"type": "captions", "max_words": 2, "min_count": 1}
    for number, layout in enumerate(LAYOUTS):
        asked = config(one, two, profile="literal", execution=layout)
        found, content = build(asked, tmp_path / f"{number}", candidates)
        assert {q: n for q, (source, n) in found.items() if source == "0-captions"} == {
            "a": 2, "cat": 2, "red": 2,
        }  # fmt: skip
        assert {q: n for q, (source, n) in found.items() if source == "1-captions"} == {
            "a red": 2, "red cat": 1, "asleep": 1, "red dog": 1, "dog": 1, "Red": 1, "Red cat": 1,
            "cat cat": 1,
        }  # fmt: skip
        assert content["left_out"] == {
            "0-captions": {"below_min_count": 3},
            "1-captions": {"duplicate": 3},
        }
    with pytest.raises(ConfigError, match="needs candidates"):
        build(config(one), tmp_path / "none")


def test_a_cut_dump_is_used_named_and_counted_until_there_are_too_many(tmp_path):
    for number in range(10):
        wikipedia_dump.write_plain(tmp_path / f"{number}.xml", PAGES)
    broken = tmp_path / "3.xml"
    content = broken.read_bytes()
    broken.write_bytes(content[: content.index(b"<title>Style")])
    found, output = build(config(words(tmp_path)), tmp_path.parent / f"{tmp_path.name}-out")
    normalised = WORDS["normalised"]
    assert found["small"][1] == 10 * normalised["small"]
    assert found["café"][1] == 9 * normalised["café"]
    assert output["counted"]["0-wikipedia_words"]["damaged_files"] == ["3.xml"]
    assert output["damage"][0].startswith("3.xml: byte ")
    (tmp_path / "4.xml").write_bytes(b"")
    uri = tmp_path.parent / f"{tmp_path.name}-again"
    with pytest.raises(DataError, match=r"2 of 10 files .* more than execution\.max_dam"):
        build(config(words(tmp_path)), uri)
    build(config(words(tmp_path) | {"execution": {"max_damaged_share": 0.2}}), uri)


def test_what_is_counted_is_not_counted_again(tmp_path, monkeypatch):
    wikipedia_dump.write_plain(tmp_path / "a.xml", PAGES)
    asked = config(words(tmp_path / "a.xml"), execution={"partition_bytes": 1024})
    done, uri = [], tmp_path / "out"

    def stopping(work, rows):
        for row in rows:
            if len(done) == 3:
                raise DataError("the test stops here")
            done.append(row)
            yield work(row)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "map_partitions", stopping)
        with pytest.raises(DataError, match="the test stops here"):
            build(asked, uri)
    counted = {path: path.stat().st_mtime_ns for path in uri.rglob("words/*.parquet")}
    assert len(counted) == 3
    started = []
    monkeypatch.setattr(
        steps, "map_partitions", lambda work, rows: started.extend(rows) or map(work, rows)
    )
    found, content = build(asked, uri)
    assert {query: num for query, (_, num) in found.items()} == WORDS["normalised"]
    assert next(row["number"] for row in started if "path" in row) == 3
    assert build(asked, uri) == (found, content)


def test_a_missing_list_is_refused_before_anything_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "map_partitions", lambda work, rows: pytest.fail("it counted"))
    dump = wikipedia_dump.write_plain(tmp_path / "a.xml", PAGES)
    for kind, message in (("wordnet", r"holds none of data\.noun"), ("list", "no such file")):
        path = str(tmp_path / "none.txt")
        with pytest.raises(ConfigError, match=message):
            build(config(words(dump), {"type": kind, "path": path}), tmp_path / "out")


def test_candidates_are_part_of_the_lists_identity_where_captions_are_a_source():
    expected = {
        "demo/run.yaml": ("candidates", "query files"),
        "real/wikipedia.yaml": ("query files",),
    }
    for name, inputs in expected.items():
        run = load_run(RunFile, ROOT / "jobs/configs" / name)
        assert stages(run)[0].inputs == inputs


def test_words_of_the_literal_profile_are_those_that_its_matcher_finds(tmp_path):
    (tmp_path / "a.csv").write_text("url,caption\n" + "http://a.com/1.jpg,red  cat here\n")
    values = {"sources": [{"type": "captions", "max_words": 2, "min_count": 1}]}
    asked = QueriesConfig.model_validate(values | {"profile": "literal"})
    candidates = UrlTableConfig(type="url_table", path=str(tmp_path / "a.csv"))
    found, _ = build(asked, tmp_path / "out", candidates)
    assert set(found) == {"red", "cat", "here", "cat here"}
    matched = Matcher(sorted(found), "literal").match(["red  cat here"]).to_pylist()
    assert matched == [[0, 1, 2, 3]]


def test_where_a_list_lies_is_no_part_of_its_identity(tmp_path):
    found = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list.txt").write_text("cat\n")
        source = {"type": "list", "path": str(tmp_path / name / "list.txt")}
        asked = QueriesConfig.model_validate({"sources": [source], "profile": "literal"})
        found.append((semantic(asked), sources_hash(asked)))
    assert found[0] == found[1]


def test_the_identity_covers_every_file(tmp_path):
    dump = wikipedia_dump.write_plain(tmp_path / "a.xml", PAGES)
    (tmp_path / "views").mkdir()
    write_views(tmp_path / "views" / "1.gz", ["en Cat 9 0"])
    views = {"type": "page_views", "paths": [str(tmp_path / "views")], "projects": ["en"]}
    views["min_views"] = 1
    asked = config(words(dump), bigrams(dump), views)
    hashes = [sources_hash(asked), sources_hash(asked)]
    write_views(tmp_path / "views" / "2.gz", ["en Cat 9 0"])
    hashes.append(sources_hash(asked))
    wikipedia_dump.write_plain(tmp_path / "a.xml", PAGES[:2])
    hashes.append(sources_hash(asked))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "a.xml").rename(moved / "a.xml")
    assert sources_hash(config(words(moved))) == sources_hash(config(words(moved / "a.xml")))
