import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.generation.config import SafetyConfig
from pipeline.generation.safety import PictureRules, PromptRules
from pipeline.generation.unclip import UnCLIP
from pipeline.selection.heads import write_head
from pipeline.serving.config import ServeConfig
from pipeline.serving.drawing import Order, draw
from pipeline.serving.requests import Refused, Wanted, checked, form_of, form_values, picture_of
from tests import tiny_stack
from tests.synthetic import DIM

CONFIG = ServeConfig(max_pictures=4, max_picture_px=64)


def encoded(width, height, kind="PNG"):
    buffer = io.BytesIO()
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (0, 0, width // 4, height))
    image.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def unclip(tmp_path_factory):
    return UnCLIP.from_run(tiny_stack.make_run(tmp_path_factory.mktemp("run")), device="cpu")


@pytest.mark.parametrize(
    ("values", "of_picture", "reason"),
    [
        ({}, False, "prompt 0 is empty"),
        ({"prompt": "\x00"}, False, "control"),
        ({"prompt": "fine", "num_pictures": 0}, False, "num_pictures"),
        ({"prompt": "fine", "num_pictures": 5}, False, "at most 4"),
        ({"prompt": "fine", "guidance_scale": 51}, False, "guidance_scale"),
        ({"prompt": "fine", "seed": 1 << 63}, False, "seed"),
        ({"prompt": "fine"}, True, "picture: needed"),
        ({"prompt": "x" * 401, "picture": encoded(8, 8)}, True, "401 characters"),
    ],
)
def test_what_is_out_of_range_is_refused_with_its_name(values, of_picture, reason):
    with pytest.raises(Refused, match=reason) as refused:
        checked(values, CONFIG, of_picture=of_picture)
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        ("*", "no readable"),
        (base64.b64encode(b"text").decode(), "no readable"),
        (encoded(8, 8)[:80], "no readable"),
        (encoded(8, 8, "BMP"), "no readable"),
        (encoded(65, 8), "at most 64 px"),
    ],
)
def test_what_is_no_picture_is_refused(picture, reason):
    with pytest.raises(Refused, match=reason):
        picture_of(Wanted(picture=picture), CONFIG)


def test_the_middle_square_is_taken():
    image = picture_of(Wanted(picture=encoded(40, 20)), CONFIG)
    assert (image.size, image.mode) == ((20, 20), "RGB")
    assert image.getcolors() == [(400, (255, 0, 0))]
    assert picture_of(Wanted(prompt="a"), CONFIG) is None


def test_a_form_is_a_request():
    form = form_of(b"prompt=a+red+circle&seed=&number=3&guidance=2.5&other=1")
    wanted = checked(form_values(form), CONFIG, of_picture=False)
    assert wanted == Wanted(prompt="a red circle", num_pictures=3, guidance_scale=2.5)


def test_requests_that_are_drawn_together_get_what_they_get_alone(unclip):
    red = Wanted(picture=encoded(16, 16), seed=2, num_pictures=2)
    orders = [
        Order(Wanted(prompt="a", seed=1, num_pictures=3), None),
        Order(red, picture_of(red, CONFIG)),
        Order(Wanted(prompt="b", seed=1), None),
        Order(Wanted(prompt="b", seed=1, guidance_scale=1.0), None),
    ]
    together = draw(unclip, orders, 2)
    assert [len(pngs) for pngs in together] == [3, 2, 1, 1]
    for order, made in zip(orders, together, strict=True):
        (alone,) = draw(unclip, [order], 8)
        for drawn, wanted in zip(made, alone, strict=True):
            found, expected = (Image.open(io.BytesIO(each.png)) for each in (drawn, wanted))
            assert found.text == expected.text
            pixels = zip(found.tobytes(), expected.tobytes(), strict=True)
            assert max(abs(a - b) for a, b in pixels) <= 1
    facts = Image.open(io.BytesIO(together[1][1].png)).text
    assert facts["Generated"] == facts["Variation"] == "true"
    assert (facts["Picture"], facts["Seed"]) == ("1", "2")
    assert len(facts["Model decoder"]) == 16


def test_safety_rules_refuse_prompts_and_withhold_pictures(unclip, tmp_path):
    rules = PromptRules(SafetyConfig(words=("gun",)))
    with pytest.raises(Refused, match="safety rule words"):
        checked({"prompt": "a Gun"}, CONFIG, rules, of_picture=False)
    wanted = checked({"prompt": "a cat", "num_pictures": 2}, CONFIG, rules, of_picture=False)
    path = str(tmp_path / "head.safetensors")
    layer = np.zeros((1, DIM), np.float32), np.ones(1, np.float32)
    write_head(path, [layer], scale="raw", activation="none", calibration="always 1")
    always = SafetyConfig(heads={"unsafe": {"path": path, "at_most": 0.5}})
    judge = PictureRules(always, DIM, unclip.stack.fingerprints["clip"])
    (made,) = draw(unclip, [Order(wanted, None)], 8, judge)
    assert [drawn.withheld for drawn in made] == [("unsafe",)] * 2
    image = Image.open(io.BytesIO(made[0].png))
    assert image.getbbox() is None
    assert image.text["Withheld"] == "unsafe"
