import base64
from html.parser import HTMLParser

import pytest
from pydantic import ValidationError

from pipeline.serving.config import ServeConfig
from pipeline.serving.drawing import Drawn
from pipeline.serving.page import page


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def tags(text):
    parser = Tags()
    parser.feed(text)
    return parser.found


def test_the_form_works_without_scripts_and_keeps_what_was_asked():
    found = tags(page({"prompt": 'a "red" <circle>', "seed": "7", "guidance": "2.5"}))
    names = {tag for tag, _ in found}
    assert "script" not in names
    fields = {attrs["name"]: attrs["value"] for tag, attrs in found if tag == "input"}
    asked = {"prompt": 'a "red" <circle>', "seed": "7", "guidance": "2.5"}
    assert fields == {**asked, "number": "4"}
    assert "img" not in names


def test_pictures_are_shown_with_their_prompt_and_can_be_varied():
    found = tags(
        page({"prompt": "a <b>red</b> circle", "seed": "3"}, [Drawn(b"one"), Drawn(b"two")])
    )
    images = [attrs for tag, attrs in found if tag == "img"]
    encoded = [base64.b64encode(png).decode() for png in (b"one", b"two")]
    assert [image["src"] for image in images] == [f"data:image/png;base64,{e}" for e in encoded]
    assert images[1]["alt"] == "a <b>red</b> circle, picture 2"
    hidden = [attrs for tag, attrs in found if tag == "input" and attrs.get("type") == "hidden"]
    assert [h["value"] for h in hidden if h["name"] == "picture"] == encoded
    assert {h["value"] for h in hidden if h["name"] == "seed"} == {"4"}, "another noise"


def test_a_varied_picture_stands_before_its_variations():
    found = tags(page({"picture": 'x" onerror="', "seed": "4"}, [Drawn(b"one")]))
    images = [attrs for tag, attrs in found if tag == "img"]
    assert images[0]["src"].endswith('x" onerror="')
    assert len(images) == 2
    assert all("onerror" not in image for image in images)


def test_a_withheld_picture_is_named_and_not_shown():
    text = page({"prompt": "a"}, [Drawn(b"black", ("unsafe", "too_red"))])
    assert "Withheld: unsafe, too_red" in text
    assert "<img" not in text


def test_what_went_wrong_is_told_and_escaped():
    text = page({"prompt": "x"}, error="<oh> no")
    assert 'role="alert">&lt;oh&gt; no' in text


def test_wrong_limits_are_refused():
    with pytest.raises(ValidationError, match="port"):
        ServeConfig(port=0)
