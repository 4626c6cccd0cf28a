import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.candidates import sources, url_tables
from pipeline.candidates.config import UrlTableConfig, WarcConfig, WatConfig
from pipeline.errors import ConfigError, DataError
from tests.warc_records import archive, record

NUM = 4000


def table(path, rows=range(NUM)):
    columns = {"url": [f"http://h{i}.com/{i}.jpg" for i in rows], "caption": ["x"] * len(rows)}
    pq.write_table(pa.table(columns), path, row_group_size=300)
    return path


def config(path, **values):
    return UrlTableConfig(type="url_table", path=str(path), **values)


def read_all(config):
    return [sources.read(config, partition) for partition in sources.plan(config)]


def urls_of(found):
    return {url for part in found for url in part.table.column("url").to_pylist()}


def test_a_sample_is_the_same_however_it_is_partitioned(tmp_path, monkeypatch):
    (tmp_path / "parts").mkdir()
    whole = urls_of(read_all(config(table(tmp_path / "a.parquet"), sample=0.1)))
    assert 0.07 < len(whole) / NUM < 0.13
    for part in range(7):
        table(tmp_path / "parts" / f"{part}.parquet", range(part, NUM, 7))
    monkeypatch.setattr(url_tables, "ROWS_PER_PARTITION", 1)
    found = read_all(config(tmp_path / "parts", sample=0.1))
    assert urls_of(found) == whole
    larger = read_all(config(tmp_path / "parts", sample=0.3))
    assert urls_of(larger) > whole


def test_what_a_sample_leaves_out_is_counted_after_what_is_no_candidate(tmp_path):
    rows = {"url": ["nowhere", *(f"http://a.com/{i}" for i in range(99))], "caption": ["x"] * 100}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    (found,) = read_all(config(tmp_path / "a.parquet", sample=0.5))
    assert found.dropped["invalid_url"] == 1
    assert found.dropped["not_in_sample"] + found.table.num_rows == 99
    everything = read_all(config(tmp_path / "a.parquet"))[0]
    assert everything.dropped == {"invalid_url": 1}


@pytest.mark.parametrize("sample", [0, -0.1, 1.1])
def test_a_share_lies_above_0_and_is_at_most_1(sample):
    with pytest.raises(ValueError, match="sample"):
        config("a.csv", sample=sample)


def damage(num_files, num_damaged, share):
    source = config("a", execution={"max_damaged_share": share})
    partitions = [{"path": f"{i}.parquet"} for i in range(num_files)]
    found = [[f"{i}: broken"] if i < num_damaged else [] for i in range(num_files)]
    return sources.count_damage(source, partitions, found)


def test_damaged_files_are_counted_once_however_many_their_parts():
    partitions = [{"path": "a"}, {"path": "a"}, {"path": "b"}]
    found = sources.count_damage(config("a"), partitions, [["x", "y"], ["z"], []])
    assert found == {"num_files": 2, "num_damaged_files": 1}


@pytest.mark.parametrize(
    ("num_files", "num_damaged", "share", "stops"),
    [
        (100, 10, 0.1, False),
        (100, 11, 0.1, True),
        (2, 1, 0.1, False),  # the limit is rounded up to whole files
        (2, 2, 0.1, True),
        (2, 2, 1.0, False),
        (9, 1, 0.0, True),
    ],
)
def test_above_the_tolerated_share_the_job_stops(num_files, num_damaged, share, stops):
    if not stops:
        assert damage(num_files, num_damaged, share)["num_damaged_files"] == num_damaged
        return
    with pytest.raises(DataError) as caught:
        damage(num_files, num_damaged, share)
    message = str(caught.value)
    assert f"{num_damaged} of {num_files} candidate files are damaged" in message
    assert f"candidates.execution.max_damaged_share={share:g}: 0: broken" in message
    assert "Repair" in message


def test_a_file_of_a_list_that_is_not_there_is_damage(tmp_path):
    archive(tmp_path, record("<img src=a.jpg alt=x>"))
    (tmp_path / "warc.paths").write_text("gone.warc.gz\na.warc.gz\n")
    source = WarcConfig(type="warc", path=str(tmp_path / "warc.paths"), prefix=str(tmp_path))
    gone, there = read_all(source)
    assert gone.damage == ["gone.warc.gz: there is no such file"]
    assert there.table.num_rows == 1
    assert gone.table.num_rows == 0


def test_a_list_of_the_other_kind_is_refused(tmp_path):
    (tmp_path / "warc.paths").write_text("a.warc.gz\n")
    with pytest.raises(ConfigError, match=r"does not end in one of \.wat\.gz, \.wat"):
        sources.plan(WatConfig(type="wat", path=str(tmp_path / "warc.paths")))
    with pytest.raises(ConfigError, match="must end in one of"):
        sources.plan(WarcConfig(type="warc", path=str(archive(tmp_path, name="a.txt"))))


def test_identity_follows_settings_and_files_and_not_their_place(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        table(tmp_path / folder / "a.parquet", range(3))
        (tmp_path / folder / "wat.paths").write_text("a.wat.gz\n")
    here, there = (config(tmp_path / name) for name in ("here", "there"))
    assert sources.identity(here) == sources.identity(there)
    tolerant = config(tmp_path / "here", execution={"max_damaged_share": 0.5})
    assert sources.identity(tolerant) == sources.identity(here)
    for changed in ({"sample": 0.5}, {"caption_column": "url"}):
        assert sources.identity(config(tmp_path / "here", **changed)) != sources.identity(here)
    lists = [
        WatConfig(type="wat", path=str(tmp_path / name / "wat.paths"), prefix=prefix)
        for name, prefix in (("here", "s3://x/"), ("there", "https://y/"))
    ]
    assert sources.identity(lists[0]) == sources.identity(lists[1])
