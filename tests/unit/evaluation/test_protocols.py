import numpy as np
import pytest

from pipeline.evaluation import protocols
from pipeline.evaluation.generated import FinalEmbeddings
from pipeline.evaluation.judges import KnownPicture, confusion, judge_confusions
from pipeline.evaluation.protocols import Read


def read(kind, index, truth, reading, z_img_truth=None):
    own = None if truth is None else {"colour": truth}
    other = None if z_img_truth is None else {"colour": z_img_truth}
    return Read(kind, index, own, other, {"colour": reading})


def test_accuracy_counts_none_as_wrong_and_names_every_kind():
    reads = [
        read("final", 0, "red", "red"),
        read("final", 1, "red", None),
        read("final", 2, None, "red"),
        read("decoder", 0, "red", "red"),
        read("z_img_shuffled", 0, "red", "red", "blue"),
    ]
    found = protocols.accuracy(reads)
    assert set(found) == {"colour_accuracy", "decoder_colour_accuracy"}
    assert (found["colour_accuracy"].value, found["colour_accuracy"].num) == (0.5, 2)


def test_shuffled_pictures_count_only_where_the_two_prompts_differ():
    reads = [
        read("z_img_shuffled", 0, "red", "blue", "blue"),
        read("z_img_shuffled", 1, "red", "red", "blue"),
        read("z_img_shuffled", 2, "red", "green", "blue"),
        read("z_img_shuffled", 3, "red", "blue", "blue"),
        read("z_img_shuffled", 4, "red", "red", "red"),
        read("final", 0, "red", "red", "red"),
    ]
    found = protocols.shuffled(reads)
    follows = "z_img_shuffled_colour_follows"
    assert found[f"{follows}_z_img"].value == 0.5
    assert found[f"{follows}_caption"].value == 0.25
    assert found[f"{follows}_z_img"].num == 4


def test_what_upsamplers_lose_is_counted_on_the_same_pictures():
    decoded = [read("decoder", n, "red", "red") for n in range(10)]
    final = [read("final", n, "red", "red" if n else None) for n in range(10)]
    found = protocols.lost_by_upsamplers([*decoded, *final, read("final", 99, "red", "red")])
    assert found["colour_lost_by_upsamplers"].value == pytest.approx(0.1)
    assert found["colour_lost_by_upsamplers"].num == 10


def test_psnr_gain_is_paired_and_tight_where_the_pictures_vary():
    rng = np.random.default_rng(0)
    bicubic = rng.uniform(15, 40, size=64)
    part = {"low_px": 16, "high_px": 64}
    results = [
        {**part, "psnr": (bicubic[:32] + 1).tolist(), "psnr_bicubic": bicubic[:32].tolist()},
        {**part, "psnr": (bicubic[32:] + 1).tolist(), "psnr_bicubic": bicubic[32:].tolist()},
    ]
    found = protocols.upsampling(results, seed=0)
    gain = found["upsampler_16_64_psnr_db_over_bicubic"]
    assert (gain.value, gain.num) == (pytest.approx(1.0), 64)
    assert gain.low95 > 0.99
    assert found["upsampler_16_64_psnr_db"].value == pytest.approx(bicubic.mean() + 1)


def test_one_picture_is_too_few_for_an_interval():
    part = {"low_px": 1, "high_px": 2, "psnr": [30.0], "psnr_bicubic": [20.0]}
    assert protocols.upsampling([part], seed=0) == {}


def test_perfect_retrieval_is_the_gallery_size_over_chance():
    z = np.eye(20, dtype=np.float32)
    found = protocols.retrieval(z, z)
    assert found["clip_image_to_text_recall_at_1_of_20"].value == 1.0
    assert found["clip_retrieval_over_chance"].value == 20.0


def test_retrieval_over_chance_takes_the_worse_direction():
    z_img = np.eye(3, dtype=np.float32)
    z_txt = np.array([[1, 0.9, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    z_img[1] = [0.9, 1, 0]
    found = protocols.retrieval(z_img, z_txt)
    rates = [found[f"clip_{d}_recall_at_1_of_3"].value for d in ("image_to_text", "text_to_image")]
    assert found["clip_retrieval_over_chance"].value == pytest.approx(3 * min(rates))


def test_random_embeddings_are_near_chance():
    rng = np.random.default_rng(0)
    z_img, z_txt = (rng.standard_normal((200, 16)).astype(np.float32) for _ in range(2))
    assert protocols.retrieval(z_img, z_txt)["clip_retrieval_over_chance"].value < 5


def test_cosines_and_frechet_name_what_they_compare():
    z = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    made = FinalEmbeddings([str(n) for n in range(8)], z, z, z)
    found = protocols.cosines(made)
    assert found["prior_cosine_to_caption"].value == pytest.approx(1, abs=1e-6)
    assert found["clip_score_own_clip"].value == pytest.approx(2.5, abs=1e-5)
    assert protocols.frechet(z, z)["frechet_distance_own_clip_8_to_8"].value < 1e-6
    assert protocols.frechet(z[:1], z) == {}


def test_gates_name_value_bound_and_what_was_not_measured():
    found = {"colour_accuracy": {"value": 0.7, "low95": 0.64, "high95": 0.75}}
    assert protocols.failed_gates(found, {"colour_accuracy": 0.7}, {"colour_accuracy": 0.7}) == []
    lines = protocols.failed_gates(
        found, {"colour_accuracy.low95": 0.65, "shape_accuracy": 0.1}, {"colour_accuracy": 0.5}
    )
    assert lines == [
        "colour_accuracy.low95=0.6400, must be at least 0.65",
        "shape_accuracy was not measured, must be at least 0.1",
        "colour_accuracy=0.7000, must be at most 0.5",
    ]


def test_confusion_has_a_row_per_truth_and_none_last():
    found = confusion("colour", [("red", "red"), ("red", None), ("blue", "green"), ("none", None)])
    assert found.truths == ("blue", "none", "red")
    assert found.readings == ("blue", "green", "red", "none")
    assert found.counts == ((0, 1, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1))
    assert (found.num_right, found.num) == (2, 4)


def test_a_judge_is_confronted_with_known_pictures():
    from PIL import Image

    def judge(picture):
        return {"colour": "red" if picture.getpixel((0, 0))[0] > 127 else None}

    known = [
        KnownPicture(Image.new("RGB", (4, 4), "red"), {"colour": "red", "kind": None}),
        KnownPicture(Image.new("RGB", (4, 4), "black"), {"colour": "none"}),
    ]
    found = judge_confusions(judge, known)
    assert set(found) == {"colour"}
    assert found["colour"].num_right == 2
