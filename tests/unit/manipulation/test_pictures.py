import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.manipulation.pictures import (
    Given,
    known_square,
    read_file,
    read_mask,
    read_samples,
    square,
)
from pipeline.shards.curated import CuratedDataset
from tests.synthetic import make_curated, sample_key


def given(size=(40, 30)):
    return Given("cat.png", Image.new("RGB", size, "red"), "")


def mask_file(folder, size=(40, 30), box=(10, 0, 20, 30), grey=255):
    mask = Image.new("L", size, 0)
    mask.paste(grey, box)
    mask.save(folder / "mask.png")
    return str(folder / "mask.png")


def test_a_square_is_cut_from_the_middle():
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste((255, 0, 0), (10, 0, 30, 20))
    found = square(picture, 20)
    assert found.shape == (3, 20, 20)
    assert torch.equal(found[0], torch.ones(20, 20))
    assert torch.equal(found[1], -torch.ones(20, 20))


def test_a_mask_is_cut_alike_and_a_pixel_that_is_painted_in_part_is_not_known(tmp_path):
    mask = read_mask(mask_file(tmp_path), given())
    known = known_square(mask, 30)
    assert not known[0, :, 5:15].any()  # the square begins 5 px from the left
    assert known[0, :, :5].all()
    assert known[0, :, 15:].all()
    assert not known_square(mask, 3)[0, :, 0].any()


def test_grey_below_the_middle_is_known(tmp_path):
    with pytest.raises(ConfigError, match="all black: nothing is to paint"):
        read_mask(mask_file(tmp_path, grey=127), given())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (30, 30)}, "is 30 x 30 px, its picture cat.png is 40 x 30"),
        ({"box": (0, 0, 40, 30)}, "all white: nothing is known"),
        ({"box": (0, 0, 5, 30)}, "all black: nothing is to paint"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path, options, words):
    with pytest.raises(ConfigError) as error:
        read_mask(mask_file(tmp_path, **options), given())
    assert words in str(error.value)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ConfigError, match=r"--picture .*text\.png: decode_error; give a JPEG"):
        read_file(str(tmp_path / "text.png"))
    with pytest.raises(ConfigError, match=r"--mask .*none\.png"):
        read_file(str(tmp_path / "none.png"), "--mask")


def test_samples_come_in_the_order_of_their_keys(tmp_path):
    curated = CuratedDataset(make_curated(tmp_path))
    keys = [sample_key(number) for number in (7, 31, 2)]
    found = read_samples(curated, keys)
    assert [each.name for each in found] == keys
    assert all(each.caption.startswith("caption") for each in found)
    assert len({np.asarray(each.image).tobytes() for each in found}) == 3
    with pytest.raises(ConfigError, match="--key nobody"):
        read_samples(curated, ["nobody"])
