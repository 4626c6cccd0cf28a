"""A CLIP asked about data sets of others, against the plain computation."""

import io
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.chain.zero_shot import check_zero_shot
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.labelled_data import open_labelled
from pipeline.evaluation.zero_shot_check import check_clip
from pipeline.models.config import ClipConfig
from pipeline.models.pictures import to_unit
from pipeline.models.presets import build_clip
from pipeline.models.tokenizer import tokenizer
from pipeline.models.zero_shot import class_embeddings, zero_shot
from pipeline.run_file import RunFile
from pipeline.shards.clip_encoder import open_clip_square
from tests import tiny_stack
from tests.kept_run import said

NAMES = ("red circle", "blue square", "green star")
TEMPLATES = ("a photo of a {c}.", "one {c}")


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    model = build_clip(ClipConfig.model_validate(tiny_stack.CLIP)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def pictures(num=24, size=(12, 9)):
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for _ in range(num)]


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_tars(folder, members_of, num=24, num_tars=2):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_tars):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for index in range(number * num // num_tars, (number + 1) * num // num_tars):
                for extension, content in members_of(index).items():
                    info = tarfile.TarInfo(f"s{index:07d}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def asking(folder):
    """A run file that says no more than which folder is meant."""
    return RunFile.model_validate(
        {
            "name": "asked",
            "output_dir": str(folder),
            "queries": {
                "profile": "normalised",
                "sources": [{"type": "list", "path": str(folder)}],
            },
        }
    )


@pytest.fixture
def both_layouts(tmp_path):
    """The same pictures and classes as folders and as a WebDataset."""
    images = pictures()
    for index, image in enumerate(images):
        folder = tmp_path / "folders" / f"n{index % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index:03d}.png")
    write_tars(
        tmp_path / "tars" / "test",
        lambda i: {"cls": str(i % 3).encode(), "png": png(images[i])},
    )
    for name in ("folders", "tars"):
        (tmp_path / name / "classnames.txt").write_text("\n".join(NAMES) + "\n")
        templates = tmp_path / name / "zeroshot_classification_templates.txt"
        templates.write_text("\n".join(TEMPLATES))
    return tmp_path, images


def test_both_layouts_give_the_plain_accuracy(both_layouts, clip):
    folder, images = both_layouts
    classes = class_embeddings(clip, NAMES, [each.replace("{c}", "{}") for each in TEMPLATES])
    squares = np.stack([open_clip_square(image, 8) for image in images])
    shown = to_unit(torch.from_numpy(squares).permute(0, 3, 1, 2))
    right = zero_shot(clip, shown, classes).argmax(dim=1) == torch.arange(24) % 3
    for name in ("folders", "tars"):
        found = check_clip(clip, open_labelled(str(folder / name)), "ViT-B", 5, said())
        assert set(found) == {
            f"{name}_ViT_B_accuracy_at_1_24",
            f"{name}_ViT_B_mean_class_accuracy_24",
        }
        accuracy = found[f"{name}_ViT_B_accuracy_at_1_24"]
        assert accuracy.value == pytest.approx(float(right.float().mean()))
        assert accuracy.low95 < accuracy.value < accuracy.high95
        assert found[f"{name}_ViT_B_mean_class_accuracy_24"].value == pytest.approx(accuracy.value)


def test_retrieval_counts_any_of_a_pictures_captions(tmp_path, clip):
    images = pictures(20)
    captions = [[f"picture {i} of {word}" for word in ("cats", "dogs")] for i in range(20)]
    write_tars(
        tmp_path / "coco",
        lambda i: {"png": png(images[i]), "txt": "\n".join(captions[i]).encode()},
        num=20,
    )
    found = check_clip(clip, open_labelled(str(tmp_path / "coco")), "own", 7, said())
    squares = np.stack([open_clip_square(image, 8) for image in images])
    with torch.no_grad():
        z_img = clip.encode_image(to_unit(torch.from_numpy(squares).permute(0, 3, 1, 2)))
        tokens = torch.from_numpy(tokenizer()([text for pair in captions for text in pair]))
        scores = F.normalize(clip.encode_text(tokens)[0]) @ F.normalize(z_img).T
    owners = torch.arange(40) // 2
    for k in (1, 5, 10):
        top = scores.topk(k, dim=1).indices
        expected = (top == owners[:, None]).any(dim=1).float().mean()
        value = found[f"coco_own_text_to_image_recall_at_{k}_of_20"].value
        assert value == pytest.approx(float(expected), abs=0.03)  # half precision may swap two
        top = owners[scores.T.topk(k, dim=1).indices]
        expected = (top == torch.arange(20)[:, None]).any(dim=1).float().mean()
        value = found[f"coco_own_image_to_text_recall_at_{k}_of_40"].value
        assert value == pytest.approx(float(expected), abs=0.051)


def test_the_job_writes_a_table_that_grows(both_layouts):
    folder, _ = both_layouts
    tiny_stack.make_run(folder / "run")
    run = asking(folder / "run")
    line = check_zero_shot(run, [str(folder / "tars")], said())
    again = check_zero_shot(run, [str(folder / "folders")], said())
    from pipeline import storage

    table = storage.read_json(again["zero_shot_path"])
    assert table == {**line["metrics"], **again["metrics"]}
    assert len(table) == 4


def test_a_run_without_a_clip_is_told_what_to_do(both_layouts):
    folder, _ = both_layouts
    run = asking(folder / "none")
    with pytest.raises(ConfigError, match="has no finished clip"):
        check_zero_shot(run, [str(folder / "tars")], said())


def test_what_is_no_data_set_is_refused(both_layouts, tmp_path):
    folder, _ = both_layouts
    with pytest.raises(ConfigError, match="no such folder"):
        open_labelled(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="expected a folder of pictures per class"):
        open_labelled(str(tmp_path / "empty"))
    (folder / "folders" / "classnames.txt").write_text("a\nb\n")
    with pytest.raises(ConfigError, match=r"names 2 classes, .* has 3 folders"):
        open_labelled(str(folder / "folders"))
    (folder / "tars" / "classnames.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="has 2 classes, counted from 0"):
        list(open_labelled(str(folder / "tars")).samples())
    write_tars(tmp_path / "bare", lambda i: {"txt": b"a caption"}, num=2)
    with pytest.raises(DataError, match="has no picture, only txt"):
        list(open_labelled(str(tmp_path / "bare")).samples())


def test_a_broken_picture_is_named(tmp_path, clip):
    write_tars(tmp_path / "broken", lambda i: {"jpg": b"none", "txt": b"a caption"}, num=2)
    with pytest.raises(DataError, match=r"s0000000: no picture that can be read"):
        check_clip(clip, open_labelled(str(tmp_path / "broken")), "own", 2, said())
