"""Rows that change partition: every sender writes one file, with one batch in it per receiver.

So P senders and R receivers make P files, not P × R, and a receiver reads its own batch of each.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
from jaxtyping import Integer

from pipeline import storage

Key = TypeVar("Key")
Content = TypeVar("Content")

NUM_READERS = 8
"""Files read at once: a remote store answers late, and a batch is small."""


def send(
    uri: str,
    table: pa.Table,
    receivers: Integer[np.ndarray, " row"],
    num_receivers: int,
    *,
    compression: str | None = "zstd",
) -> None:
    """Publish a sender's rows.

    Args:
        uri: The file (Arrow IPC).
        table: The rows.
        receivers: Of each row, below ``num_receivers``.
        num_receivers: Batches in the file, the empty ones among them.
        compression: Of the batches; None for what does not shrink.
    """
    rows = table.take(pa.array(np.argsort(receivers, kind="stable")))
    nothing = pa.RecordBatch.from_pylist([], schema=table.schema)
    whole = pa.concat_batches([nothing, *rows.to_batches()])
    ends = np.cumsum(np.bincount(receivers, minlength=num_receivers)).tolist()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        storage.open_for_publish(uri) as file,
        pa.ipc.new_file(file, table.schema, options=options) as writer,
    ):
        for first, after in pairwise([0, *ends]):
            writer.write_batch(whole.slice(first, after - first))


def receive(uris: Iterable[str], receiver: int) -> Iterator[pa.RecordBatch]:
    """A receiver's rows of each sender, in the order of the senders and of their rows."""
    return read_ahead(partial(_read, receiver=receiver), uris)


def read_ahead(
    read: Callable[[Key], Content], uris: Iterable[Key], num_readers: int = NUM_READERS
) -> Iterator[Content]:
    """What files hold, in order; a few files are read before they are asked for.

    Args:
        read: Reads one file; runs in threads.
        uris: The files, or whatever ``read`` knows them by.
        num_readers: Threads, and files that are read ahead.
    """
    waiting: deque[Future[Content]] = deque()
    with ThreadPoolExecutor(num_readers) as pool:
        for uri in uris:
            waiting.append(pool.submit(read, uri))
            if len(waiting) > num_readers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read(uri: str, receiver: int) -> pa.RecordBatch:
    with storage.open_for_read(uri) as file, pa.ipc.open_file(file) as reader:
        return reader.get_batch(receiver)
