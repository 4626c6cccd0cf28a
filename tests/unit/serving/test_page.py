import base64
from html.parser import HTMLParser

import pytest
from pydantic import ValidationError

from pipeline.serving.config import ServeConfig
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
    found = tags(page('a "red" <circle>', "7", "2.5"))
    names = {tag for tag, _ in found}
    assert "script" not in names
    fields = {attrs["name"]: attrs["value"] for tag, attrs in found if tag == "input"}
    assert fields == {"prompt": 'a "red" <circle>', "seed": "7", "guidance": "2.5"}
    assert "img" not in names


def test_a_picture_is_shown_with_its_prompt_as_description():
    found = dict(tags(page("a <b>red</b> circle", png=b"\x89PNG")))
    encoded = base64.b64encode(b"\x89PNG").decode()
    assert found["img"]["src"] == f"data:image/png;base64,{encoded}"
    assert found["img"]["alt"] == "a <b>red</b> circle"


def test_what_went_wrong_is_told_and_escaped():
    text = page("x", error="<oh> no")
    assert 'role="alert">&lt;oh&gt; no' in text


def test_wrong_limits_are_refused():
    with pytest.raises(ValidationError, match="port"):
        ServeConfig(run_uri="runs/demo", port=0)
