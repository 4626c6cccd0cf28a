"""Results on a true S3 server, with a proxy between that breaks requests on purpose."""

import os
import subprocess
import sys
import threading

import pytest

from pipeline import lease, storage
from pipeline.errors import EXIT_LATER, EXIT_USAGE, BusyError, ConfigError, StorageError
from pipeline.s3 import files, requests, upload
from pipeline.shards.reader import open_dataset
from tests import object_store
from tests.fault_proxy import Fault, fault_proxy
from tests.local_curation import curate_pictures
from tests.object_store import Store
from tests.rados_gateway import SECRET, environment, gateway, is_installed
from tests.tiny_run import ROOT, tiny_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not is_installed(), reason="RADOS gateway: apt-get install radosgw ceph-mon ceph-osd"
    ),
]
PART_BYTES = 1 << 14
BODY = bytes(range(256)) * 300  # five parts
CLIP = {
    "embed_dim": 8,
    "vision": {"image_px": 8, "patch_px": 4, "width": 16, "layers": 1, "heads": 2},
    "text": {"width": 16, "layers": 1, "heads": 2},
}
AGAIN_AND_AGAIN = (  # what a busy store does to a whole stage
    Fault("busy", times=10_000, every=7),
    Fault("reset", "GET", times=10_000, every=11),
    Fault("unheard", "PUT|POST", times=10_000, every=13),
    Fault("cut", "PUT", times=10_000, every=17),
)


@pytest.fixture(scope="module")
def proxy():
    with gateway() as port, fault_proxy(port) as running:
        yield running


def forget_clients():
    requests.client.cache_clear()
    files.S3FileSystem.clear_instance_cache()


@pytest.fixture
def store(proxy, request, monkeypatch):
    for name, value in environment(proxy.port).items():
        monkeypatch.setenv(name, value)
    for module, name, value in (
        (requests, "PAUSE_S", 0.01),
        (requests, "READ_TIMEOUT_S", 1.0),
        (upload, "PART_BYTES", PART_BYTES),
        (files, "PIECE_BYTES", PART_BYTES),
    ):
        monkeypatch.setattr(module, name, value)
    forget_clients()
    proxy.plan()
    found = Store(proxy.server_port, request.node.name)
    found.proxy = proxy
    yield found
    proxy.plan()
    forget_clients()


def test_what_was_written_is_read_listed_and_removed(store):
    names = {"a/b.json": b"{}", "a/empty": b"", "c.bin": BODY}
    for name, body in names.items():
        storage.write_bytes(storage.join(store.uri, name), body)
    assert store.objects() == names
    for name, body in names.items():
        uri = storage.join(store.uri, name)
        assert storage.read_bytes(uri) == body
        assert storage.size_of(uri) == len(body)
    assert storage.list_names(store.uri) == ["a", "c.bin"]
    assert storage.list_names(storage.join(store.uri, "nothing")) == []
    assert storage.exists(storage.join(store.uri, "a"))
    assert not storage.exists(storage.join(store.uri, "a/b"))
    with storage.open_for_read(storage.join(store.uri, "c.bin")) as file:
        file.seek(70_000)
        assert file.read(10) == BODY[70_000:70_010]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(store.uri, "nothing"))
    storage.remove_folder(storage.join(store.uri, "a"))
    storage.remove_file(storage.join(store.uri, "c.bin"))
    assert store.objects() == {}


def test_a_file_is_whole_or_not_there(store):
    uri = storage.join(store.uri, "shard.tar")
    with storage.open_for_publish(uri) as file:
        file.write(BODY)
        assert store.objects() == {}
        assert store.pending()
    assert store.objects() == {"shard.tar": BODY}
    with pytest.raises(ValueError, match="half"), storage.open_for_publish(uri) as file:
        file.write(BODY[::-1])
        raise ValueError("half")
    assert store.objects() == {"shard.tar": BODY}
    assert store.pending() == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("busy", times=5),
        Fault("cut", "PUT .*partNumber=2", times=2),
        Fault("reset", "GET", times=3),
        Fault("unheard", "PUT .*partNumber=2", times=2),
        Fault("unheard", "POST .*uploadId"),  # the upload's end: it is there, and nobody was told
        Fault("blackhole", "PUT .*partNumber=3"),
        Fault("blackhole", "GET"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.request[:4].strip()}-{fault.times}",
)
def test_what_passes_is_waited_for(store, fault):
    uri = storage.join(store.uri, "shard.tar")
    store.proxy.plan(fault)
    storage.write_bytes(uri, BODY)
    assert storage.read_bytes(uri) == BODY
    assert fault.done == fault.times
    assert store.objects() == {"shard.tar": BODY}
    assert store.pending() == []


def test_an_upload_whose_name_was_never_heard_is_aborted_by_who_comes_next(store):
    store.proxy.plan(Fault("unheard", "POST .*uploads"))
    storage.write_bytes(storage.join(store.uri, "stage/x"), BODY)
    assert len(store.pending()) == 1
    assert storage.remove_temporary(store.uri, below=False) == 0
    assert storage.remove_temporary(store.uri) == 1
    assert store.pending() == []


@pytest.mark.parametrize("request_", ["PUT .*partNumber=3", "POST .*uploadId"])
def test_a_store_that_stays_away_ends_in_try_later(store, monkeypatch, request_):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    fault = Fault("busy", request_, times=100)
    store.proxy.plan(fault)
    with pytest.raises(StorageError, match="3 attempts failed, the last with: SlowDown") as told:
        storage.write_bytes(storage.join(store.uri, "x"), BODY)
    assert told.value.exit_code == EXIT_LATER
    assert fault.done == 3
    assert store.objects() == {}
    assert store.pending() == []


def test_what_does_not_pass_is_asked_once_and_told_with_its_remedy(store, monkeypatch):
    with pytest.raises(ConfigError, match="create the bucket"):
        storage.write_bytes("s3://nobody-has-made-it/x", b"")
    with pytest.raises(ConfigError, match="holds credentials") as told:
        storage.read_bytes(f"s3://key:{SECRET}@bucket/x")
    assert SECRET not in str(told.value)
    for name, value in (("AWS_SECRET_ACCESS_KEY", "x" * 40), ("AWS_ACCESS_KEY_ID", "B" * 20)):
        monkeypatch.setenv(name, value)
        forget_clients()
        store.proxy.plan()
        with pytest.raises(ConfigError, match="name credentials that may do this"):
            storage.read_bytes(storage.join(store.uri, "x"))
        assert len(store.proxy.seen) == 1


def test_the_store_refuses_what_libraries_send_by_themselves(store):
    """Why this pipeline asks for checksums nowhere: this is how stores on premises answer."""
    from pyarrow.fs import S3FileSystem

    host = f"127.0.0.1:{store.proxy.port}"
    theirs = S3FileSystem(endpoint_override=host, scheme="http", region="us-east-1")
    with pytest.raises(OSError, match="411"), theirs.open_output_stream("bucket/theirs") as file:
        file.write(b"x")


def test_of_many_that_begin_at_once_one_holds_the_lease(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_EVERY_S", 0.05)
    barrier, ended = threading.Barrier(6), threading.Event()
    tokens, refused = [], []

    def begin() -> None:
        barrier.wait()
        try:
            with lease.hold(store.uri, watch_s=5.0):
                tokens.append(storage.read_json(storage.join(store.uri, lease.LEASE))["token"])
                ended.wait()
        except BusyError as error:
            refused.append(error)
            if len(refused) == 5:
                ended.set()

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tokens == [1]
    assert len(refused) == 5
    assert store.objects() == {}


def test_a_lease_that_stands_still_is_taken_over_by_one(store):
    uri = storage.join(store.uri, lease.LEASE)
    dead = {"owner": "x", "token": 4, "beat": 9, "pid": 1, "host": "far", "process_started": 0}
    storage.write_json(uri, dead)
    _, version = storage.read_version(uri)
    store.proxy.plan(Fault("unheard", "PUT"))  # written, and nobody was told
    with lease.hold(store.uri, watch_s=0.2):
        assert storage.read_json(uri)["token"] == 5
        with pytest.raises(FileExistsError):
            storage.write_over(uri, b"{}", version)
        with pytest.raises(FileExistsError):
            storage.write_over(uri, b"{}", None)


def test_preflight_says_whether_conditions_are_kept(store):
    from pipeline.chain.cluster_check import conditional_writes

    assert [check["found"] for check in conditional_writes(store.uri)] == ["kept"]


def curated(folder, monkeypatch, **more):
    return curate_pictures(folder, object_store.pictures(40), monkeypatch, shards=SHARDS, **more)


SHARDS = {"samples_per_shard": 10, "views_px": [16]}


def test_shards_are_those_of_a_local_disk_whatever_the_store_does(store, tmp_path, monkeypatch):
    local, here = curated(tmp_path, monkeypatch)
    store.proxy.plan(*AGAIN_AND_AGAIN)
    uri, there = curated(tmp_path, monkeypatch, output=store.uri)
    assert sum(fault.done for fault in AGAIN_AND_AGAIN) > 20
    assert there.manifest_hash == here.manifest_hash
    expected = object_store.content(object_store.files(local))
    assert object_store.content(store.objects("curate/")) == expected
    assert sum(name.endswith(".tar") for name in expected) == 10
    storage.remove_temporary(store.uri)
    assert store.pending() == []
    keys = [sample.key for sample in open_dataset(uri)]
    assert keys == [sample.key for sample in open_dataset(local)]


KILLED = """
import sys
from pathlib import Path
import pytest
from pipeline.s3 import upload
from tests.local_curation import curate_pictures
from tests.object_store import pictures
from tests.services.test_object_store import PART_BYTES, SHARDS
upload.PART_BYTES = PART_BYTES
with pytest.MonkeyPatch.context() as patch:
    curate_pictures(Path(sys.argv[1]), pictures(40), patch, shards=SHARDS, output=sys.argv[2])
"""


def test_a_killed_worker_leaves_no_file_and_the_next_one_goes_on(store, tmp_path, monkeypatch):
    _, here = curated(tmp_path, monkeypatch)
    command = [sys.executable, "-c", KILLED, str(tmp_path), store.uri]
    environment = os.environ | {"FAIL_AT": "upload.before_complete:2", "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    assert store.pending()
    left = store.objects("curate/")
    assert not [name for name in left if name == "manifest.json"]
    before = set(left)
    uri, there = curated(tmp_path, monkeypatch, output=store.uri)
    assert there.manifest_hash == here.manifest_hash
    assert store.pending() == []
    assert [name for name in before if "/done/crawl/" in name]  # a bucket's work was not done again
    assert storage.list_names(uri) == sorted(os.listdir(tmp_path / "curate"))


def test_embeddings_are_those_of_a_local_disk(store, tmp_path, monkeypatch):
    import torch

    from pipeline import weights_file
    from pipeline.models.config import ClipConfig
    from pipeline.models.presets import build_clip
    from pipeline.shards.embed_config import EmbedConfig
    from pipeline.shards.embeddings import ClipEmbedder

    torch.manual_seed(0)
    state = build_clip(ClipConfig.model_validate(CLIP)).state_dict()
    folders = []
    for output in (str(tmp_path), store.uri):
        uri, result = curated(tmp_path, monkeypatch, output=output)
        weights, folder = storage.join(output, "clip.safetensors"), storage.join(output, "embed")
        weights_file.export_weights(weights, state, CLIP, "clip")
        values = {"batch_size": 4, "pictures": "view", "execution": EXECUTION}
        config = EmbedConfig.model_validate(values)
        actor = ClipEmbedder(config, uri, weights, storage.sha256_of(weights), folder)
        rows = [actor({"shard": shard}) for shard in range(len(result.content["shards"]))]
        assert not any(row["error"] for row in rows)
        folders.append(folder)
    assert store.objects("embed/") == object_store.files(folders[0])


EXECUTION = {"num_actors": 1, "threads_per_actor": 1}


def test_a_checkpoint_is_complete_or_invisible(store, monkeypatch):
    import torch

    from pipeline import checkpoints

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    state = {"model": {"weight": torch.arange(8.0)}}
    first = checkpoints.save(store.uri, state, 32)
    for broken in (r"\.metadata", "manifest"):
        store.proxy.plan(Fault("busy", f"PUT .*{broken}", times=100))
        with pytest.raises(StorageError, match="2 attempts failed"):
            checkpoints.save(store.uri, state, 64)
    store.proxy.plan()
    assert checkpoints.latest(store.uri) == first
    assert checkpoints.clean(store.uri) == ["step-000000000064"]
    restored = {"model": {"weight": torch.zeros(8)}}
    assert checkpoints.load(first, restored) == 32
    assert torch.equal(restored["model"]["weight"], state["model"]["weight"])
    checkpoints.keep_last(store.uri, 1)
    assert checkpoints.completed(store.uri) == [first]


def job(run_file, *settings):
    sets = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "jobs.run", "--config", str(run_file), *sets]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )


def test_a_job_says_what_is_wrong_before_anything_starts(store, tmp_path, monkeypatch):
    run_file, database = tiny_run(tmp_path), f"execution.tracking.uri=sqlite:///{tmp_path}/m.db"
    done = job(run_file, f"output_dir=s3://key:{SECRET}@bucket/run")
    assert done.returncode == EXIT_USAGE
    assert "output_dir holds an address with a user name" in done.stderr
    assert SECRET not in done.stderr + done.stdout
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store.proxy.plan(Fault("busy", times=10_000))
    done = job(run_file, f"output_dir={store.uri}", database)
    assert done.returncode == EXIT_LATER
    assert "the same command goes on later" in done.stderr
    assert store.objects() == {}
