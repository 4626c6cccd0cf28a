"""Results on a true S3 server and one that speaks Google's language, behind a proxy that breaks
requests on purpose."""

import gc
import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import fsspec
import pytest
from google.auth.exceptions import RefreshError, TransportError

from pipeline import lease, storage
from pipeline.errors import EXIT_LATER, EXIT_USAGE, BusyError, ConfigError, StorageError
from pipeline.shards.reader import open_dataset
from pipeline.stores import files, gcs, s3, s3_requests, uploads
from tests import object_store
from tests.fault_proxy import Fault, fault_proxy
from tests.gcs_server import gcs_server
from tests.local_curation import curate_pictures
from tests.object_store import GcsStore, Store
from tests.rados_gateway import BUCKET, SECRET, client, environment, gateway, is_installed
from tests.tiny_run import ROOT, tiny_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    # Google's client leaves the sockets of broken answers to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
only_s3 = pytest.mark.parametrize("proxy", ["s3"], indirect=True)
only_gs = pytest.mark.parametrize("proxy", ["gs"], indirect=True)
CLIP = {
    "embed_dim": 8,
    "vision": {"image_px": 8, "patch_px": 4, "width": 16, "layers": 1, "heads": 2},
    "text": {"width": 16, "layers": 1, "heads": 2},
}
AGAIN_AND_AGAIN = (  # what a busy store does to a whole stage
    Fault("busy", times=10_000, every=7),
    Fault("reset", "GET", times=10_000, every=11),
    Fault("unheard", "PUT|POST", times=10_000, every=13),
    Fault("cut", "PUT|POST", times=10_000, every=17),
)


@pytest.fixture(scope="module", params=["s3", "gs"])
def proxy(request):
    """A proxy before a store, and what looks behind both."""
    if request.param == "gs":
        with gcs_server() as (port, bucket), fault_proxy(port) as running:
            running.environment = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{running.port}"}
            running.behind = lambda name: GcsStore(bucket, name)
            yield running
        return
    if not is_installed():
        pytest.skip("RADOS gateway: apt-get install radosgw ceph-mon ceph-osd")
    with gateway() as port, fault_proxy(port) as running:
        warm_up(client(port))
        running.environment = environment(running.port)
        running.behind = lambda name: Store(port, name)
        yield running


def warm_up(asked):
    """The first upload in parts takes a new gateway seconds, and a client may ask for it twice."""
    where = {"Bucket": BUCKET, "Key": "first"}
    begun = asked.create_multipart_upload(**where)["UploadId"]
    asked.abort_multipart_upload(**where, UploadId=begun)


def forget_clients():
    s3_requests.client.cache_clear()
    gcs.client.cache_clear()
    s3.S3FileSystem.clear_instance_cache()
    gcs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def store(proxy, request, monkeypatch):
    found = proxy.behind(request.node.name)
    for name, value in proxy.environment.items():
        monkeypatch.setenv(name, value)
    for module, name, value in (
        *((module, "PAUSE_S", 0.01) for module in (s3_requests, gcs)),
        *((module, "READ_TIMEOUT_S", 1.0) for module in (s3_requests, gcs)),
        (uploads, "PART_BYTES", found.part_bytes),
        (files, "PIECE_BYTES", found.part_bytes),
    ):
        monkeypatch.setattr(module, name, value)
    forget_clients()
    proxy.plan()
    found.proxy = proxy
    found.body = bytes(range(256)) * (found.part_bytes * 47 // 2560)  # five parts
    yield found
    proxy.plan()
    forget_clients()
    gc.collect()


def test_what_was_written_is_read_listed_and_removed(store):
    names = {"a/b.json": b"{}", "a/empty": b"", "c.bin": store.body}
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
        assert file.read(10) == store.body[70_000:70_010]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(store.uri, "nothing"))
    storage.remove_folder(storage.join(store.uri, "a"))
    storage.remove_file(storage.join(store.uri, "c.bin"))
    assert store.objects() == {}


def test_an_object_of_known_length_is_read_in_pieces_and_a_longer_one_is_told(store, monkeypatch):
    uri, size = storage.join(store.uri, "shard.tar"), len(store.body)
    storage.write_bytes(uri, store.body)
    for piece_bytes in (size // 9, size // 3, size - 1, size, size + 1, 2 * size):
        monkeypatch.setattr(files, "PIECE_BYTES", piece_bytes)
        for known in (None, size, size + 1):
            assert b"".join(storage.pieces(uri, known)) == store.body
        assert len(b"".join(storage.pieces(uri, size - 1))) == size  # what is there is longer
        assert storage.sha256_of(uri) == hashlib.sha256(store.body).hexdigest()


def test_connections_of_many_threads_are_kept(store, caplog):
    uris = [storage.join(store.uri, f"{number}.json") for number in range(24)]
    with ThreadPoolExecutor(len(uris)) as threads:
        list(threads.map(partial(storage.write_bytes, content=b"{}"), uris))
        assert list(threads.map(storage.read_bytes, uris)) == [b"{}"] * len(uris)
    assert "pool is full" not in caplog.text


def test_a_file_is_whole_or_not_there(store):
    uri = storage.join(store.uri, "shard.tar")
    with storage.open_for_publish(uri) as file:
        file.write(store.body)
        assert store.objects() == {}
        assert store.pending()
    assert store.objects() == {"shard.tar": store.body}
    with pytest.raises(ValueError, match="half"), storage.open_for_publish(uri) as file:
        file.write(store.body[::-1])
        raise ValueError("half")
    assert store.objects() == {"shard.tar": store.body}
    assert store.pending() == []


def named(fault):
    return f"{fault.kind}-{fault.request[:4].strip()}-{fault.times}"


@only_s3
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
    ids=named,
)
def test_what_passes_is_waited_for(store, fault):
    written_and_read_in_spite_of(store, fault)


@only_gs
@pytest.mark.parametrize(
    "fault",
    [
        Fault("busy", times=5),
        Fault("cut", "PUT", times=2),
        Fault("reset", "GET", times=3),
        Fault("unheard", "PUT", times=2),
        Fault("unheard", "PUT", every=5),  # the upload's end, as above
        Fault("blackhole", "PUT", every=3),
        Fault("blackhole", "GET"),
    ],
    ids=named,
)
def test_what_passes_is_waited_for_with_google_too(store, fault):
    written_and_read_in_spite_of(store, fault)


def written_and_read_in_spite_of(store, fault):
    uri = storage.join(store.uri, "shard.tar")
    store.proxy.plan(fault)
    storage.write_bytes(uri, store.body)
    assert storage.read_bytes(uri) == store.body
    assert fault.done == fault.times
    assert store.objects() == {"shard.tar": store.body}
    assert store.pending() == []


@only_s3
def test_an_upload_whose_name_was_never_heard_is_aborted_by_who_comes_next(store):
    store.proxy.plan(Fault("unheard", "POST .*uploads"))
    storage.write_bytes(storage.join(store.uri, "stage/x"), store.body)
    assert len(store.pending()) == 1
    assert storage.remove_temporary(store.uri, below=False) == 0
    assert storage.remove_temporary(store.uri) == 1
    assert store.pending() == []


@only_s3
@pytest.mark.parametrize("request_", ["PUT .*partNumber=3", "POST .*uploadId"])
def test_a_store_that_stays_away_ends_in_try_later(store, monkeypatch, request_):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    fault = Fault("busy", request_, times=100)
    store.proxy.plan(fault)
    with pytest.raises(StorageError, match="3 attempts failed, the last with: SlowDown") as told:
        storage.write_bytes(storage.join(store.uri, "x"), store.body)
    assert told.value.exit_code == EXIT_LATER
    assert fault.done == 3
    assert store.objects() == {}
    assert store.pending() == []


@only_gs
@pytest.mark.parametrize("request_", ["PUT", "POST", "GET"])
def test_a_store_of_google_that_stays_away_ends_in_try_later(store, monkeypatch, request_):
    monkeypatch.setattr(gcs, "RETRY_S", 0.3)
    uri = storage.join(store.uri, "x")
    fault = Fault("busy", request_, times=1000)
    store.proxy.plan(fault)
    with pytest.raises(StorageError, match=r"all requests of 0\.3 s failed.* HTTP 503 ") as told:
        storage.write_bytes(uri, store.body)
        storage.read_bytes(uri)
    assert told.value.exit_code == EXIT_LATER
    assert fault.done > 2
    assert set(store.objects()) == ({"x"} if request_ == "GET" else set())
    assert store.pending() == []


@only_gs
def test_an_upload_that_is_given_up_or_forgotten_publishes_nothing(store):
    uri = storage.join(store.uri, "x")
    storage.write_bytes(uri, b"good")
    store.proxy.plan(Fault("busy", "DELETE", times=100))
    with pytest.raises(ValueError, match="half"), storage.open_for_publish(uri) as file:
        file.write(store.body)
        raise ValueError("half")
    filesystem, path = fsspec.core.url_to_fs(uri)
    forgotten = filesystem.open(path, "wb")
    forgotten.write(store.body)
    del file, forgotten
    gc.collect()
    assert store.objects() == {"x": b"good"}
    assert not [r for r in store.proxy.seen if "PUT" in r and r.endswith("busy")]


@only_gs
def test_an_upload_that_the_store_has_lost_ends_in_try_later(store):
    uri = storage.join(store.uri, "x")
    with pytest.raises(StorageError, match="has lost"), storage.open_for_publish(uri) as file:
        file.write(store.body[: 2 * store.part_bytes])
        store.forget_uploads()
        file.write(store.body[2 * store.part_bytes :])
    assert store.objects() == {}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TransportError("no route"), StorageError),
        (RefreshError(TransportError("no metadata server")), StorageError),
        (RefreshError("invalid_grant"), ConfigError),
    ],
)
def test_a_token_that_cannot_be_had_now_is_tried_later_one_that_is_refused_is_not(error, kind):
    with pytest.raises(kind), gcs._explained("bucket/x"):
        raise error


@only_gs
def test_google_without_bucket_credentials_or_leave_is_told_with_its_remedy(store, monkeypatch):
    with pytest.raises(ConfigError, match="create the bucket"):
        storage.write_bytes("gs://nobody-has-made-it/x", b"")
    with pytest.raises(ConfigError, match="create the bucket"):
        storage.list_names("gs://nobody-has-made-it")
    with pytest.raises(ConfigError, match="holds credentials"):
        storage.read_bytes("gs://somebody@bucket/x")
    store.proxy.plan(Fault("forbidden"))
    with pytest.raises(ConfigError, match="gs://bucket/x: HTTP 403; name credentials"):
        storage.read_bytes("gs://bucket/x")
    assert len(store.proxy.seen) == 1
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", os.devnull)
    forget_clients()
    with pytest.raises(ConfigError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        storage.read_bytes("gs://bucket/x")


@only_s3
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


@only_s3
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


def curated(store, folder, monkeypatch, **more):
    pictures = object_store.pictures(40, store.picture_px)
    return curate_pictures(folder, pictures, monkeypatch, shards=SHARDS, **more)


def left_by_nobody(store):
    """Whether no upload is begun; Google's cannot be listed, only be forgotten by the store."""
    return store.uri.startswith("gs://") or store.pending() == []


SHARDS = {"samples_per_shard": 10, "views_px": [16]}


def test_shards_are_those_of_a_local_disk_whatever_the_store_does(store, tmp_path, monkeypatch):
    local, here = curated(store, tmp_path, monkeypatch)
    store.proxy.plan(*AGAIN_AND_AGAIN)
    uri, there = curated(store, tmp_path, monkeypatch, output=store.uri)
    assert sum(fault.done for fault in AGAIN_AND_AGAIN) > 20
    assert there.manifest_hash == here.manifest_hash
    expected = object_store.content(object_store.files(local))
    assert object_store.content(store.objects("curate/")) == expected
    assert sum(name.endswith(".tar") for name in expected) == 10
    storage.remove_temporary(store.uri)
    assert left_by_nobody(store)
    keys = [sample.key for sample in open_dataset(uri)]
    assert keys == [sample.key for sample in open_dataset(local)]


KILLED = """
import sys
from pathlib import Path
import pytest
from pipeline.stores import uploads
from tests.local_curation import curate_pictures
from tests.object_store import pictures
from tests.services.test_object_store import SHARDS
folder, output, part_bytes, px = sys.argv[1:]
uploads.PART_BYTES = int(part_bytes)
with pytest.MonkeyPatch.context() as patch:
    made = pictures(40, int(px))
    curate_pictures(Path(folder), made, patch, shards=SHARDS, output=output)
"""


def test_a_killed_worker_leaves_no_file_and_the_next_one_goes_on(store, tmp_path, monkeypatch):
    _, here = curated(store, tmp_path, monkeypatch)
    how = [str(tmp_path), store.uri, str(store.part_bytes), str(store.picture_px)]
    command = [sys.executable, "-c", KILLED, *how]
    environment = os.environ | {"FAIL_AT": "upload.before_complete:2", "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    assert store.pending()
    left = store.objects("curate/")
    assert not [name for name in left if name == "manifest.json"]
    before = set(left)
    uri, there = curated(store, tmp_path, monkeypatch, output=store.uri)
    assert there.manifest_hash == here.manifest_hash
    assert left_by_nobody(store)
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
        uri, result = curated(store, tmp_path, monkeypatch, output=output)
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


def test_a_checkpoint_comes_back(store):
    import torch

    from pipeline import checkpoints

    saved = checkpoints.save(store.uri, {"model": {"weight": torch.arange(8.0)}}, 32)
    restored = {"model": {"weight": torch.zeros(8)}}
    assert checkpoints.load(saved, restored) == 32
    assert torch.equal(restored["model"]["weight"], torch.arange(8.0))


@only_s3
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
    checkpoints.keep_last(store.uri, 1)
    assert checkpoints.completed(store.uri) == [first]


def job(run_file, *settings):
    sets = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "jobs.run", "--config", str(run_file), *sets]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )


@only_s3
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
