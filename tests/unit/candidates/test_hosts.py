import pyarrow as pa

from pipeline.candidates import urls
from pipeline.candidates.hosts import beyond_limit


def pairs(*addresses):
    return pa.table({"url": addresses, "url_id": [urls.url_id(each) for each in addresses]})


def test_the_first_pictures_of_each_host_stay_in_the_order_of_their_ids():
    many = [f"{scheme}://a.com/{n}.jpg" for n in range(40) for scheme in ("http", "https")]
    few = [
        f"http://{host}/{n}.jpg" for host in ("b.com", "x.b.com", "c.com:8080") for n in range(5)
    ]
    table = pairs(*many, *few, *many[:7])  # several captions of a picture count once
    beyond = beyond_limit(table, 5).to_pylist()
    stay = {url for url, falls in zip(table["url"].to_pylist(), beyond, strict=True) if not falls}
    assert stay == {*sorted(many, key=urls.url_id)[:5], *few}
    assert beyond[: len(many)][:7] == beyond[-7:]


def test_files_of_a_folder_have_no_host():
    table = pairs(*(str(urls.local(f"{n}.jpg")) for n in range(4)), "http://a.com/1")
    assert beyond_limit(table, 1).to_pylist() == [False] * 5


def test_an_empty_table_has_no_pair_beyond():
    table = pairs("http://a.com/1").slice(0, 0)
    assert beyond_limit(table, 1).to_pylist() == []
