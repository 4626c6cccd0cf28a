import io
import json
import tarfile

import pytest
from PIL import Image

from pipeline import storage
from pipeline.errors import CheckpointError, ConfigError
from pipeline.evaluation.generated import read_embeddings, read_generated
from pipeline.generation import batch
from pipeline.generation.partition import PartitionMaker, done_uri
from pipeline.generation.plan import DECODER, FINAL, MEAN_Z_IMG, plan
from pipeline.generation.prompts import Prompt
from pipeline.generation.run_stages import RunStages
from pipeline.progress import Progress
from tests import tiny_stack
from tests.synthetic import DIM, make_curated, make_embedded, publish

PROMPTS = [Prompt(f"picture {n}", {"colour": "red", "kind": None}) for n in range(4)]
PARTITIONS = plan(PROMPTS, 3, 3, seed=3)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    return tiny_stack.make_stack(tmp_path_factory.mktemp("stack"))


def make_all(stack, uri, **changes):
    config = tiny_stack.generate_config(**changes)
    maker = PartitionMaker(RunStages.of(stack), config, (0.5,) * DIM, str(uri))
    return [maker.make(partition) for partition in PARTITIONS]


@pytest.fixture(scope="module")
def made(stack, tmp_path_factory):
    uri = tmp_path_factory.mktemp("made")
    markers = make_all(stack, uri)
    content = {"shards": [marker["shard"] for marker in markers]}
    return publish(str(uri), "generate", content), markers


def pictures_of(result):
    return [p for entry in result.content["shards"] for p in read_generated(result, entry)]


def test_every_planned_picture_is_written_with_its_prompt_and_truth(made):
    result, markers = made
    found = {(p.kind, p.index): p for p in pictures_of(result)}
    planned = {(job.kind, job.index) for p in PARTITIONS for job in p.jobs}
    assert set(found) == planned | {(DECODER, n) for n in range(4)}
    assert all(found[FINAL, n].prompt == f"picture {n}" for n in range(4))
    assert found[FINAL, 0].truth == {"colour": "red", "kind": None}
    assert sum(sum(marker["kinds"].values()) for marker in markers) == len(found)
    assert found[FINAL, 0].image().size == (16, 16)
    assert found[DECODER, 0].image().size == (8, 8)


def test_each_picture_says_inside_the_file_that_it_is_generated(made, stack):
    image = Image.open(io.BytesIO(pictures_of(made[0])[0].png))
    assert image.text["Generated"] == "true"
    assert image.text["Prompt"] == "picture 0"
    decoder_sha = stack["decoder"].content["weights"]["sha256"]
    assert image.text["Model decoder"] == decoder_sha[:16]


def test_settings_and_seed_lie_beside_each_picture(made):
    uri = storage.join(made[0].uri, "shards", "00000.tar")
    with tarfile.open(uri) as tar:
        names = tar.getnames()
        row = json.load(tar.extractfile("final-00000000.json"))
    assert {"final-00000000.png", "final-00000000.txt"} <= set(names)
    assert row["seed"] == 3
    assert row["settings"]["decoder"]["guidance_scale"] == 2.0
    assert set(row["models"]) == {"clip", "prior", "decoder", "upsampler_8_16"}


def test_the_same_configuration_gives_the_same_bytes(stack, made, tmp_path):
    again = make_all(stack, tmp_path)
    assert [m["shard"] for m in again] == [m["shard"] for m in made[1]]


def test_a_picture_depends_on_neither_partition_size_nor_the_pictures_beside_it(
    stack, made, tmp_path
):
    config = tiny_stack.generate_config()
    maker = PartitionMaker(RunStages.of(stack), config, (0.5,) * DIM, str(tmp_path))
    alone = plan(PROMPTS[:4], 0, 1, seed=3)[3]
    marker = maker.make(alone)
    result = publish(str(tmp_path), "generate", {"shards": [marker["shard"]]})
    wanted = {p.key: p.png for p in pictures_of(made[0])}
    for picture in pictures_of(result):
        assert picture.png == wanted[picture.key]


def test_embeddings_of_final_pictures_come_in_the_order_of_their_numbers(made):
    found = read_embeddings(made[0])
    assert found.keys == [f"final-{n:08d}" for n in range(4)]
    assert found.z_img.shape == found.z_txt.shape == found.z_img_of_picture.shape == (4, DIM)


def test_without_the_prior_the_mean_embedding_is_used(made):
    number = next(p.number for p in PARTITIONS if p.jobs[0].kind == MEAN_Z_IMG)
    uri = storage.join(made[0].uri, "shards", f"{number:05d}.parquet")
    from pipeline.shards.writer import read_table

    assert read_table(uri, ["z_img"])["z_img"].to_pylist() == [[0.5] * DIM] * 3


def test_without_upsamplers_the_decoders_picture_is_the_final_one(stack, tmp_path):
    config = tiny_stack.generate_config(upsamplers=[])
    maker = PartitionMaker(RunStages.of(stack), config, (0.5,) * DIM, str(tmp_path))
    marker = maker.make(PARTITIONS[0])
    assert marker["kinds"] == {FINAL: 3}


class TestGenerateWithoutRay:
    @pytest.fixture
    def inputs(self, stack, tmp_path):
        curated = make_curated(tmp_path)
        embedded = tiny_stack.with_clip(make_embedded(tmp_path, curated), stack["clip"])
        return {**stack, "embed": embedded}

    def test_finished_partitions_are_not_made_again(self, inputs, tmp_path):
        config = tiny_stack.generate_config(prompts={"type": "held_out"})
        uri = str(tmp_path / "out")
        maker = PartitionMaker(RunStages.of(inputs), config, (0.0,) * DIM, uri)
        for partition in PARTITIONS:
            maker.make(partition)
        output = batch.generate(config, inputs, PROMPTS, uri, Progress())  # Ray is not open
        assert output.content["num_pictures"] == {
            "caption_hidden": 3,
            "decoder": 4,
            "final": 4,
            "mean_z_img": 3,
            "mean_z_img_caption_hidden": 3,
            "z_img_shuffled": 3,
        }
        assert len(output.content["shards"]) == len(output.work) == len(PARTITIONS)
        assert storage.exists(done_uri(uri, 0))

    def test_a_bad_prompt_stops_before_any_work(self, inputs, tmp_path):
        config = tiny_stack.generate_config(prompts={"type": "inline", "texts": ["fine", " "]})
        with pytest.raises(ConfigError, match="prompt 1 is empty"):
            batch.generate(config, inputs, [], str(tmp_path / "out"), Progress())

    def test_embeddings_of_another_clip_are_refused(self, inputs, stack, tmp_path):
        other = make_embedded(tmp_path / "other", make_curated(tmp_path / "other"))
        config = tiny_stack.generate_config()
        with pytest.raises(CheckpointError, match="was embedded by CLIP"):
            batch.generate(
                config, {**inputs, "embed": other}, [], str(tmp_path / "out"), Progress()
            )
