import os

from hypothesis import given
from hypothesis import strategies as st

from pipeline import draws, results
from pipeline.config import StrictModel
from pipeline.identity import files_identity, fingerprint, stage_identity


class Execution(StrictModel):
    workers: int = 1


class Config(StrictModel):
    width: int
    execution: Execution = Execution()


def identity(width=1, workers=1, version=1, upstream="a"):
    config = Config(width=width, execution=Execution(workers=workers))
    return stage_identity("prior", version, config, {"clip": upstream})


def test_workers_do_not_change_an_identity_but_meaning_does():
    assert identity() == identity(workers=8)
    assert len({identity(), identity(width=2), identity(version=2), identity(upstream="b")}) == 4


def test_a_fingerprint_does_not_depend_on_key_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_a_foreign_file_is_known_by_name_length_and_content(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"abc")
    known = {
        "name": "x.parquet",
        "num_bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert files_identity([str(path)]) == [known]
    path.write_bytes(b"xyz")
    os.utime(path, ns=(1, 1))
    assert files_identity([str(path)])[0]["sha256"] != known["sha256"]


def test_of_many_bytes_both_ends_of_each_file_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.identity.FULL_HASH_LIMIT_BYTES", 5)
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"abc")
    assert [list(each) for each in files_identity(list(map(str, paths)))] == [
        ["name", "num_bytes", "sha256_of_ends"]
    ] * 2


def test_equal_content_gives_an_equal_manifest_whatever_the_circumstance(tmp_path):
    hashes = []
    for started in (1.0, 2.0):
        result = results.publish_result(
            str(tmp_path / str(started)),
            stage="prior",
            identity=identity(),
            config={},
            inputs={"clip": "a"},
            content={"num_samples": 3},
            circumstance={"started_s": started},
        )
        hashes.append(result.manifest_hash)
    assert hashes[0] == hashes[1]
    assert results.read_result(str(tmp_path / "none")) is None


def test_draws_are_the_same_on_every_machine():
    assert draws.hash64("a", 1) == draws.hash64("a", "1")
    assert draws.hash64("a") == 1338944494866213648
    assert draws.generator(1, "noise", 5).integers(1 << 30) == 866347468


@given(st.lists(st.text(), min_size=2, max_size=4, unique=True))
def test_parts_do_not_run_into_each_other(parts):
    assert draws.hash64(*parts) != draws.hash64("".join(parts))
    assert 0 <= draws.uniform(*parts) < 1
