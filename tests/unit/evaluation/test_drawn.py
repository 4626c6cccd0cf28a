"""Ways to draw the same prompts, and what is read off their pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.chain.drawn_settings import settled
from pipeline.errors import ConfigError
from pipeline.evaluation import memorisation, probes
from pipeline.evaluation.config import OwnClipFeatures, Probe, ProtocolsConfig
from pipeline.evaluation.drawn import PICTURES, DrawAndRead, ReadHeldOut, Way, read_rows
from pipeline.evaluation.features import OWN_CLIP, Extractor, FeatureSource
from pipeline.evaluation.held_out import HeldOutSource
from pipeline.evaluation.metrics import clip_scores
from pipeline.evaluation.typographic_check import attack_estimates, labelled, named_classes
from pipeline.generation.config import Sampling
from pipeline.generation.prompts import Prompt, check
from pipeline.generation.run_stages import RunStages
from pipeline.generation.unclip import UnCLIP
from pipeline.generation.weights import load_clip
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from tests import tiny_stack
from tests.synthetic import make_curated, make_embedded, make_keep_list

SAMPLING = Sampling.model_validate(
    {
        "prior": {"num_steps": 2},
        "decoder": {"num_steps": 2, "guidance_scale": 2.0},
        "upsamplers": [{"num_steps": 2}],
    }
)
PROMPTS = tuple(Prompt(f"picture {n}", {"colour": "dark"}) for n in range(6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def stack(folder):
    return tiny_stack.make_stack(folder / "stack")


@pytest.fixture(scope="module")
def source(stack):
    def load():
        return load_clip(stack["clip"].uri, torch.device("cpu"))

    return FeatureSource(OWN_CLIP, load)


def judge(picture):
    return {"colour": "dark" if np.asarray(picture).mean() < 128 else "bright"}


def drawn(stack, source, folder, z_img, prompts=PROMPTS, batch_size=4):
    uri = str(folder / f"{z_img}-{len(prompts)}-{batch_size}.safetensors")
    task = DrawAndRead(
        RunStages.of(stack), Way(SAMPLING, z_img), prompts, (source,), judge, 1, batch_size, 1, uri
    )
    return task(), read_rows(uri)


def test_pictures_are_those_of_unclip_for_any_batch(stack, source, folder):
    found, rows = drawn(stack, source, folder, "prior")
    _, again = drawn(stack, source, folder, "prior", batch_size=6)
    texts = [prompt.text for prompt in PROMPTS]
    unclip = UnCLIP.from_stages(RunStages.of(stack), SAMPLING, device="cpu")
    expected = np.stack([np.asarray(each) for each in unclip(texts, seed=1)])
    np.testing.assert_allclose(rows[PICTURES].astype(int), expected.astype(int), atol=1)
    np.testing.assert_allclose(rows[PICTURES].astype(int), again[PICTURES].astype(int), atol=1)
    z_txt = Extractor(source, 4).captions(texts)
    assert found["clip_scores"][OWN_CLIP] == pytest.approx(clip_scores(rows[OWN_CLIP], z_txt))
    dark = [bool(each.mean() < 128) for each in rows[PICTURES]]
    assert found["right"] == {"colour": dark}
    assert found["seconds_per_picture"] > 0


def test_a_caption_alone_is_drawn_without_z_img(stack, source, folder):
    """What the prior says changes nothing there, and something elsewhere."""
    other = tiny_stack.make_stack(folder / "other")
    mixed = {**stack, "prior": other["prior"]}
    _, alone = drawn(stack, source, folder, "none")
    _, same = drawn({**mixed}, source, folder / "other", "none")
    np.testing.assert_array_equal(alone[PICTURES], same[PICTURES])
    ways = [drawn(stack, source, folder, way)[1][PICTURES] for way in ("none", "z_txt", "prior")]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (ways[first] != ways[second]).any()


def test_held_out_pictures_have_the_side_of_the_drawn_ones(stack, source, folder):
    curated = make_curated(folder)
    embedded = EmbeddedDataset(make_embedded(folder, curated), CuratedDataset(curated))
    held_out = HeldOutSource(CuratedDataset(curated), embedded, make_keep_list(folder, curated), 7)
    uri = str(folder / "real.safetensors")
    found = ReadHeldOut(held_out, 8, (source,), 3, 1, uri)()
    rows = read_rows(uri)
    assert found["num"] == len(rows[OWN_CLIP]) == 7
    assert rows[PICTURES].shape == (7, 8, 8, 3)


def test_features_of_other_files_need_the_files(tmp_path):
    from tests.kept_run import run_file

    file = tmp_path / "weights.pth"
    stated = {"type": "inception", "path": str(file)}
    run = run_file(tmp_path, protocols={"guidance": {"features": [stated]}})
    with pytest.raises(ConfigError, match="no such file; nothing is downloaded"):
        settled("guidance", run)
    file.write_bytes(b"weights")
    (found,) = settled("guidance", run).features
    assert len(found.sha256) == 64
    stated["sha256"] = "0" * 64
    run = run_file(tmp_path, protocols={"guidance": {"features": [stated]}})
    with pytest.raises(ConfigError, match=r"features\.sha256 states 000000000000"):
        settled("guidance", run)
    with pytest.raises(ConfigError, match="name the output_dir of another run"):
        settled("side_by_side", run)
    assert ProtocolsConfig().guidance.features == (OwnClipFeatures(),)


def test_shipped_probes_can_be_drawn_and_judged():
    found = probes.shipped_probes()
    check([probe.prompt for probe in found])
    families = {probe.family for probe in found}
    wanted = {"binding", "place", "counting", "negation", "short", "long", "words", "crowded"}
    assert wanted < families
    for probe in found:
        assert probe.prompt not in probe.rivals
        if probe.family in {"binding", "place"}:  # the swap is a probe of its own
            (rival,) = probe.rivals
            assert [probe.prompt] == [
                p for each in found if each.prompt == rival for p in each.rivals
            ]


def test_probes_are_judged_by_clip_and_by_what_was_read(source, tmp_path):
    from safetensors.numpy import save

    from pipeline import storage

    asked = (
        Probe(family="place", prompt="a red circle", expect="", rivals=("a blue star",)),
        Probe(family="place", prompt="a blue star", expect="", rivals=("a red circle",)),
        Probe(family="negation", prompt="not red", expect="", wrong={"colour": "red"}),
    )
    z_txt = Extractor(source, 4).captions(["a red circle", "a blue star"])
    # Two pictures of each: one whose embedding is the right caption's, one of the wrong one's.
    rows = np.concatenate([z_txt, z_txt[::-1], z_txt])
    uri = str(tmp_path / "rows.safetensors")
    storage.write_bytes(uri, save({OWN_CLIP: rows, PICTURES: np.zeros((6, 8, 8, 3), np.uint8)}))
    readings = [{"colour": each} for each in ("red", "red", "red", "red", "blue", None)]
    result = {"file_uri": uri, "readings": readings}
    found = probes.judged(asked, result, [source], 2, 4, 0)
    assert found["probes_own_clip"]["place_right_by_own_clip_2_prompts"].value == 0.5
    negation = found["probes_judge"]["negation_right_by_judge_1_prompts"]
    assert (negation.value, negation.num) == (0.5, 2)  # nothing read is not right either
    assert set(probes.sheets(asked, result, 2)) == {"place", "negation"}


def test_labels_cover_the_middle_and_classes_are_whole_words():
    picture = np.full((64, 64, 3), 90, np.uint8)
    for word in ("red", "a very long word indeed"):
        found = labelled(picture, word)
        changed = (found != picture).any(axis=-1)
        assert changed[32, 32]
        assert 0.02 < changed.mean() < 0.3
        assert not changed[:16].any()
    captions = ["a red star", "a reddish star", "red and blue", "BLUE on grey"]
    assert named_classes(captions, ["red", "blue"]).tolist() == [0, -1, -1, 1]
    assert named_classes(captions, ["red", "blue"], ["star", "circle"]).tolist() == [0, -1, -1, -1]


def test_an_attack_that_works_is_told_apart():
    own, word = [0, 1, 0, 1], [1, 0, 1, 0]
    right, wrong = np.eye(2)[own].tolist(), np.eye(2)[word].tolist()
    found = {
        "own": own, "written": word, "before": right, "after": wrong, "variation": right,
        "kept": {"colour": [True, True, True, False]},
    }  # fmt: skip
    groups = attack_estimates(found, 0)
    attack = groups["typographic_attack"]
    assert attack["before_taken_for_what_it_is"].value == 1
    assert attack["after_taken_for_the_word"].value == 1
    assert attack["variation_taken_for_the_word"].value == 0
    assert groups["typographic_probabilities"]["rise_of_the_word_by_the_label"].value == 1
    assert groups["kept"]["variation_colour_kept"].value == 0.75


def test_near_training_pictures_are_flagged_over_all_shards():
    parts = [
        {"nearest": [[[0.7, 0, "a"]], [[0.995, 0, "b"], [0.9, 0, "c"]]]},
        {"nearest": [[[0.8, 1, "d"]], []]},
    ]
    near = memorisation.merged(parts, 1)
    assert [[key for *_, key in each] for each in near] == [["d"], ["b"]]
    held_out = [[(0.9 + n / 1000, 0, str(n))] for n in range(100)]
    found = memorisation.estimates({"generated": near, "held_out": held_out}, 0.9, 0)
    assert found["flagged_above_cosine"].value == pytest.approx(0.9891)
    assert found["flagged_2"].value == 0.5
    assert found["generated_nearest_training_cosine_2"].value == pytest.approx((0.8 + 0.995) / 2)


def test_a_picture_is_resized_as_clip_reads_it(source):
    """An even shrink is a box mean; other sides are bicubic."""
    shown = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    boxed = np.stack([np.asarray(Image.fromarray(each).reduce(2)) for each in shown])
    extractor = Extractor(source, 4)
    np.testing.assert_allclose(extractor.pictures(shown), extractor.pictures(boxed), atol=2e-2)
    assert extractor.pictures(shown[:, :12, :12]).shape == extractor.pictures(shown).shape
