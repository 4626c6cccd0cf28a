import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.curation import exchange

SCHEMA = pa.schema([pa.field("text", pa.string()), pa.field("ids", pa.list_(pa.uint32()))])
ROWS = st.lists(st.tuples(st.text(max_size=3), st.lists(st.integers(0, 9), max_size=3)))


@settings(deadline=None)
@given(senders=st.lists(ROWS, min_size=1, max_size=4), num=st.integers(1, 5))
def test_every_row_arrives_once_in_the_order_of_senders(senders, num, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exchange")
    uris, expected = [], [[] for _ in range(num)]
    for number, rows in enumerate(senders):
        receivers = [(number + place) * 7 % num for place in range(len(rows))]
        for row, receiver in zip(rows, receivers, strict=True):
            expected[receiver].append({"text": row[0], "ids": row[1]})
        table = pa.table(list(map(list, zip(*rows, strict=True))) or [[], []], schema=SCHEMA)
        uris.append(str(folder / f"{number}.arrow"))
        exchange.send(uris[-1], table, np.array(receivers, np.int64), num)
    for receiver in range(num):
        batches = list(exchange.receive(uris, receiver))
        assert len(batches) == len(senders)
        assert pa.Table.from_batches(batches).to_pylist() == expected[receiver]


def test_a_receiver_reads_its_own_rows_alone(tmp_path):
    uri = str(tmp_path / "a.arrow")
    rng = np.random.default_rng(0)
    text = pa.array([rng.bytes(500).hex() for _ in range(1000)])
    exchange.send(uri, pa.table({"text": text}), np.arange(1000) % 100, 100)
    (batch,) = exchange.receive([uri], 7)
    assert batch.num_rows == 10
    assert batch.nbytes < 20_000
