"""What a run must not hold: a ledger of removals, and which samples it names.

``<output_dir>/removals/`` holds one small table per request; nothing in it is ever changed or taken
back. An entry names samples by one of these kinds:

==========  ======================================================================================
``key``     the sample
``uid``     the sample that holds this pair of picture and caption
``url``     the address of the picture, in its canonical form
``domain``  every picture that lies on this host or on one below it, or whose page does
``sha256``  the bytes of the picture as received
``phash``   every picture whose perceptual hash differs in at most ``max_hamming`` bits; it sees
            luminance alone, so that it removes rather more than less
==========  ======================================================================================

Keep-lists made from then on hold none of them, CLIP's included. What was published before stays as
it was; ``compact`` makes a data set without them.
"""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from pipeline import storage
from pipeline.candidates import urls
from pipeline.errors import ConfigError
from pipeline.identity import fingerprint
from pipeline.partitions import Row, map_partitions
from pipeline.results import Result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.writer import publish_table, read_table

FOLDER = "removals"
KINDS = ("key", "uid", "url", "domain", "sha256", "phash")
SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("max_hamming", pa.int16(), nullable=False),
        pa.field("added_s", pa.float64(), nullable=False),
    ]
)
"""``added_s``: Unix time of the request; a circumstance, outside every identity."""
COLUMNS = ["key", "url", "uids", "sha256", "phash", "page_url"]
"""Columns of a shard's table that say whether a sample is meant."""
REMOVED = "removed"
"""Drop reason of removed samples."""
DIGITS = {"sha256": 64, "phash": 16}
MAX_HAMMING = 15


@dataclass(frozen=True, order=True)
class Entry:
    """One thing that must not be held."""

    kind: str
    value: str
    max_hamming: int = 0
    """For ``phash``: bits that may differ."""


def entry(kind: str, value: str, max_hamming: int = 0) -> Entry:
    """An entry in the form in which the ledger holds it.

    Args:
        kind: Of ``KINDS``.
        value: As somebody wrote it.
        max_hamming: For ``phash``: bits that may differ.

    Raises:
        ConfigError: There is no such kind, or the value cannot be one of it.
    """
    value = value.strip()
    if kind not in KINDS or not value:
        raise ConfigError(f"removal {kind}={value!r}: give a value of {', '.join(KINDS)}")
    if not 0 <= max_hamming <= MAX_HAMMING:
        raise ConfigError(f"max_hamming={max_hamming}: a hash has 64 bits; use 0 to {MAX_HAMMING}")
    if kind == "url":
        address = urls.canonical(value) or (value if value.startswith(urls.LOCAL) else None)
        if address is None:
            raise ConfigError(f"removal url={value!r}: no http or https address")
        return Entry(kind, address)
    if kind == "domain":
        return Entry(kind, _host(value))
    if kind in DIGITS:
        value = value.lower()
        if not re.fullmatch(rf"[0-9a-f]{{{DIGITS[kind]}}}", value):
            raise ConfigError(f"removal {kind}={value!r}: {DIGITS[kind]} hex digits are needed")
        return Entry(kind, value, max_hamming if kind == "phash" else 0)
    return Entry(kind, value)


def _host(value: str) -> str:
    address = urls.canonical(f"http://{value.removeprefix('*.').strip('.')}/")
    host = None if address is None else address.removeprefix("http://").rstrip("/")
    if host is None or "/" in host or ":" in host:
        raise ConfigError(f"removal domain={value!r}: a host name such as photos.example is needed")
    return host


class Removals:
    """Entries, and the samples that they name."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Hold each entry once."""
        self.entries = sorted(set(entries))
        of_kind: dict[str, list[Entry]] = {kind: [] for kind in KINDS}
        for each in self.entries:
            of_kind[each.kind].append(each)
        values = {kind: [each.value for each in found] for kind, found in of_kind.items()}
        self._values = {kind: pa.array(found, pa.string()) for kind, found in values.items()}
        self._domains = set(values["domain"])
        self._near = [(np.uint64(int(e.value, 16)), e.max_hamming) for e in of_kind["phash"]]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.entries)

    @property
    def content_hash(self) -> str:
        """Identity: what is named, in no order, whenever it was asked for."""
        return fingerprint([[each.kind, each.value, each.max_hamming] for each in self.entries])

    def mask(self, table: pa.Table) -> Bool[np.ndarray, " sample"]:
        """Which rows of a shard's table are meant.

        Args:
            table: With ``COLUMNS``.
        """
        found = np.zeros(table.num_rows, bool)
        for kind in ("key", "url", "sha256"):
            if len(self._values[kind]):
                found |= self._is_in(table[kind].combine_chunks(), kind)
        if len(self._values["uid"]):
            lists = table["uids"].combine_chunks()
            parents = pc.call_function("list_parent_indices", [lists]).to_numpy()
            found[parents[self._is_in(lists.flatten(), "uid")]] = True
        if self._domains:
            found |= self._in_domains(table["url"]) | self._in_domains(table["page_url"])
        if self._near:
            found |= self._looks_alike(table["phash"])
        return found

    def _is_in(self, values: pa.Array, kind: str) -> Bool[np.ndarray, " value"]:
        options = pc.SetLookupOptions(self._values[kind])
        return pc.call_function("is_in", [values], options).to_numpy(zero_copy_only=False)

    def _in_domains(self, addresses: pa.ChunkedArray) -> Bool[np.ndarray, " sample"]:
        options = pc.ReplaceSubstringOptions(r"^[a-z]+://([^/:?#]*).*$", r"\1")
        column = addresses.fill_null("").combine_chunks()
        hosts = pc.call_function("replace_substring_regex", [column], options).dictionary_encode()
        meant = np.array([self._is_below(host) for host in hosts.dictionary.to_pylist()], bool)
        return meant[hosts.indices.to_numpy()]

    def _is_below(self, host: str) -> bool:
        labels = host.split(".")
        return any(".".join(labels[start:]) in self._domains for start in range(len(labels)))

    def _looks_alike(self, hashes: pa.ChunkedArray) -> Bool[np.ndarray, " sample"]:
        values = np.array([int(each, 16) for each in hashes.to_pylist()], np.uint64)
        found = np.zeros(len(values), bool)
        for value, max_hamming in self._near:
            found |= np.bitwise_count(values ^ value) <= max_hamming
        return found


NONE = Removals([])


def read(output_dir: str) -> Removals:
    """The ledger of a run; empty where there is none."""
    return Removals(
        Entry(row["kind"], row["value"], row["max_hamming"]) for row in _rows(output_dir)
    )


def add(output_dir: str, entries: Iterable[Entry]) -> list[Entry]:
    """Add what the ledger does not hold yet; returns it.

    Args:
        output_dir: The run's folder.
        entries: In any order, in the form that ``entry`` gives them.
    """
    fresh = sorted(set(entries) - set(read(output_dir).entries))
    if fresh:
        now = time.time()
        rows = [{**vars(each), "added_s": now} for each in fresh]
        name = f"{fingerprint([vars(each) for each in fresh])[:16]}.parquet"
        place = storage.join(output_dir, FOLDER, name)
        publish_table(place, pa.Table.from_pylist(rows, schema=SCHEMA))
    return fresh


def _rows(output_dir: str) -> list[Mapping[str, Any]]:
    folder = storage.join(output_dir, FOLDER)
    names = storage.list_names(folder)
    return [row for name in names for row in read_table(storage.join(folder, name)).to_pylist()]


def keys_in(curated: Result, removals: Removals) -> list[str]:
    """Keys of the samples of a data set that are meant, in its order. Ray is open already."""
    dataset = CuratedDataset(curated)
    if not removals:
        return []
    task = partial(_keys_of_shard, curated=curated, removals=removals)
    rows = [{"shard": shard} for shard in range(len(dataset.shards))]
    found = sorted(map_partitions(task, rows), key=lambda row: row["shard"])
    return [key for row in found for key in row["keys"]]


def _keys_of_shard(row: Row, curated: Result, removals: Removals) -> Row:
    found = named_in(curated, row["shard"], removals)
    return {"shard": row["shard"], "keys": [each["key"] for each in found]}


def named_in(curated: Result, shard: int, removals: Removals) -> list[dict[str, Any]]:
    """``key, url, uids`` of the samples of one shard that are meant.

    Args:
        curated: The data set.
        shard: Number of the shard.
        removals: What is meant.
    """
    table = CuratedDataset(curated).rows(shard, COLUMNS)
    meant = table.filter(pa.array(removals.mask(table)))
    return meant.select(["key", "url", "uids"]).to_pylist()
