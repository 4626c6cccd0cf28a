import os

import pytest
import ray

from pipeline.training import process_group
from pipeline.training.process_group import INTERFACE, interface_of


def test_an_interface_is_found_by_its_address():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None  # of documents, so of nobody


@pytest.mark.parametrize(
    ("given", "address", "taken"),
    [(None, "127.0.0.1", "lo"), ("eth7", "127.0.0.1", "eth7"), (None, "192.0.2.1", None)],
)
def test_workers_meet_where_the_nodes_do_unless_somebody_says_where(
    given, address, taken, monkeypatch
):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    monkeypatch.delenv(INTERFACE, raising=False)
    if given:
        monkeypatch.setenv(INTERFACE, given)
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))
        process_group._choose_interface()
        assert os.environ.get(INTERFACE) == taken
