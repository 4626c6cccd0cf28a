"""Raters over HTTP, and in a real browser with keys and fingers."""

import html
import json
import os
import re
import signal
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from jobs import rate
from jobs.command import show_job
from pipeline.rating import results
from pipeline.rating.config import PageConfig, StudyConfig
from pipeline.rating.page import ASKED
from pipeline.rating.store import Store, opened
from pipeline.rating.study import items
from tests.browser import open_browser
from tests.rated_systems import CAPTIONS, make_folder, serving
from tests.tiny_run import start_job

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    root = tmp_path_factory.mktemp("systems")
    return {
        "first": make_folder(root / "ours", "ours", num=16, side=64),
        "second": make_folder(root / "theirs", "theirs", num=16, side=32),
    }


@pytest.fixture
def database(systems, tmp_path):
    path = str(tmp_path / "ratings.sqlite")
    store = Store(path)
    store.begin(StudyConfig(**systems, num_comparisons=2), items)
    store.close()
    return path


class Client:
    """A browser without pictures."""

    def __init__(self, address):
        self.address = address
        cookies = urllib.request.HTTPCookieProcessor(CookieJar())
        self._open = urllib.request.build_opener(cookies).open

    def get(self, path="/"):
        return self._answer(path, None)

    def post(self, path, **form):
        return self._answer(path, urllib.parse.urlencode(form).encode())

    def _answer(self, path, body):
        try:
            with self._open(f"{self.address}{path}", body, timeout=30) as answer:
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), error.headers


def rate_all(address, name):
    client = Client(address)
    page = client.post("/begin", name=name)[1]
    while place := re.search(r'name="place" value="(\d+)"', page):
        page = client.post("/answer", place=place[1], choice="left")[1]
    return page


def test_many_raters_at_once_lose_no_answer(database):
    with serving(database) as address, ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda n: rate_all(address, f"rater {n}"), range(8)))
    assert all("Done. Thank you" in page for page in pages)
    with opened(database) as store:
        found = store.answers()
        assert len({(a.rater, a.question, a.number) for a in found}) == len(found) == 8 * 6
        assert all(a.choice == a.on_left for a in found)


def test_a_name_that_is_taken_is_asked_about_and_goes_on(database):
    with serving(database) as address:
        ann = Client(address)
        assert "1 of 6" in ann.post("/begin", name="  Ann  ")[1]
        assert "2 of 6" in ann.post("/answer", place=0, choice="tie")[1]
        other = Client(address)
        status, page, _ = other.post("/begin", name="Ann")
        assert (status, "Is that you?" in page) == (409, True)
        assert "2 of 6" in other.post("/begin", name="Ann", again=1)[1]
        assert "Your name" in other.post("/leave")[1]
        assert ann.post("/begin", name=" ")[0] == ann.post("/begin", name="x" * 41)[0] == 422


def test_neither_pages_nor_pictures_say_whose_they_are(database, systems):
    with serving(database) as address:
        client = Client(address)
        pages = [client.post("/begin", name="Ann")]
        pages += [client.get(f"/?place={place}") for place in range(6)]
        for status, text, headers in pages:
            assert status == 200
            assert headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            for word in ("secret", "ours", "theirs", "first", "second", "000"):
                assert word not in re.sub(r"base64,[^\"]+", "", text), word
        captions = [html.unescape(c) for c in re.findall("<blockquote>“(.*?)”", pages[3][1])]
        assert captions[0] in CAPTIONS  # asked for captions alone, and escaped
        assert "<blockquote>" not in pages[1][1] + pages[6][1]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"place": 6, "choice": "left"}, 422),
        ({"place": -1, "choice": "left"}, 422),
        ({"place": 0, "choice": "first"}, 422),
        ({}, 422),
        ({"place": 0, "choice": "left" * 5000}, 413),
    ],
)
def test_what_is_no_answer_is_not_kept(database, form, status):
    with serving(database) as address:
        client = Client(address)
        assert client.post("/answer", place=0, choice="left")[0] == 403  # nobody yet
        client.post("/begin", name="Ann")
        assert client.post("/answer", **form)[0] == status
    with opened(database) as store:
        assert store.answers() == []


def test_with_a_secret_only_the_whole_link_opens(database):
    secret = "a secret of 20 signs"
    with serving(database, secret) as address:
        assert Client(address).get()[0] == 403
        assert Client(address).get("/?token=wrong")[0] == 403
        assert Client(address).post("/begin", name="Eve")[0] == 403
        rater = Client(address)
        assert "Your name" in rater.get(f"/?token={urllib.parse.quote(secret)}")[1]
        assert "1 of 6" in rater.post("/begin", name="Ann")[1]
    with opened(database) as store:
        assert not store.is_rater("Eve")


RUN = ["--config", str(ROOT / "jobs/configs/demo/run.yaml")]


def call(*arguments):
    return show_job(rate.__doc__ or "", rate.show, rate.add_options, [*RUN, *arguments])


def test_the_job_serves_survives_a_kill_and_exports(systems, tmp_path, capsys):
    database = ["--database", str(tmp_path / "kept.sqlite")]
    compared = ["--of", systems["first"], "--against", systems["second"], "--comparisons", "3"]
    for number, end in enumerate((signal.SIGKILL, signal.SIGINT)):
        process = start_job("jobs.rate", *RUN, *compared, "--port", "0", *database)
        line = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address is not None, line + process.stderr.read()
        client = Client(address[0])
        assert f"{1 + number} of 8" in client.post("/begin", name="Ann", again=1)[1]
        client.post("/answer", place=number, choice="right")
        process.send_signal(end)
        said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert json.loads(said.splitlines()[-1])["raters"] == {"Ann": 2}
    out = tmp_path / "ratings.csv"
    assert call(*database, "--export", str(out)) == 0
    assert capsys.readouterr().out == said
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--against", "nowhere", "--host", "0.0.0.0"], "can be reached by others"),
        (["--against", "nowhere", "--of", "nowhere/"], "both systems are nowhere"),
        (["--against", "nowhere", "--of", "elsewhere", "--port", "0"], "elsewhere: no such folder"),
        ([], "does not exist; begin with"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments, reason, tmp_path, capsys):
    assert call(*arguments, "--database", str(tmp_path / "new.sqlite")) == 2
    assert reason in capsys.readouterr().err


def test_the_link_holds_the_secret():
    from pipeline.rating.app import link

    assert link(PageConfig(token="a b" * 8), 80) == f"http://127.0.0.1:80/?token={'a%20b' * 8}"
    assert link(PageConfig(host="::1"), 8010) == "http://[::1]:8010/"


def test_a_rater_with_keys_and_one_with_a_finger(database, tmp_path):
    shots = Path(os.environ.get("SCREENSHOTS", tmp_path))
    with serving(database) as address, open_browser() as page:
        page.go(address)
        page.screenshot(shots / "begin.png")
        page.type("Ann")
        with page.loading():
            page.click("button.go")
        asked = []
        for number, key in enumerate(("ArrowLeft", "2", "0", "1", "ArrowRight", "ArrowDown")):
            asked.append(page.evaluate("document.querySelector('h1').innerText"))
            assert page.evaluate("document.querySelector('progress').value") == number
            widths = page.evaluate("[...document.images].map(i => i.naturalWidth && i.width)")
            assert widths[0] == widths[1] > 400
            assert not page.is_wider_than_its_window()
            page.screenshot(shots / f"desktop-{number}.png")
            with page.loading():
                page.press(key)
        assert asked == [text for text in ASKED.values() for _ in range(2)]
        assert "Done" in page.evaluate("document.body.innerText")
        with page.loading():
            page.press("Backspace")
        chosen = page.evaluate("document.querySelector('button.chosen').value")
        assert chosen == "tie"
        page.screenshot(shots / "again.png")

        page.go(address, width=390, height=844)
        with page.loading():
            page.click("button.link")
        page.type("Bob")
        with page.loading():
            page.click("button.go")
        for number in range(6):
            assert not page.is_wider_than_its_window()
            assert page.evaluate(
                "document.querySelector('button[value=tie]').getBoundingClientRect().bottom"
                " <= innerHeight"
            ), "everything can be reached without scrolling"
            page.screenshot(shots / f"phone-{number}.png")
            with page.loading():
                page.click("button[value=left]")
        assert page.errors == []
    with opened(database) as store:
        found = results.summary(store)
        assert found["raters"] == {"Ann": 6, "Bob": 6}
        sides = {
            a.number: a.choice if a.choice == "tie" else a.choice == a.on_left
            for a in store.answers()
            if (a.rater, a.question) == ("Ann", "photorealism")
        }
        assert sorted(map(str, sides.values())) == ["False", "True"]
