"""The priors' own trainings: codes from data, conditions that matter, the closed form."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import storage, weights_file
from pipeline.draws import generator
from pipeline.errors import ConfigError
from pipeline.models.codes import fit_codes
from pipeline.models.config import (
    AutoregressivePriorConfig,
    ClipConfig,
    ClipShape,
    OwnText,
    TextTowerConfig,
    VisionTowerConfig,
)
from pipeline.models.presets import build_clip
from pipeline.models.tokenizer import tokenizer
from pipeline.progress import Progress
from pipeline.results import Result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import keep_list
from pipeline.shards.loader import Sample
from pipeline.shards.select_config import SplitConfig
from pipeline.shards.z_statistics import as_file, principal_components
from pipeline.training.codes import CODES, publish_codes, read_tables
from pipeline.training.config import AutoregressivePriorTaskConfig, LinearPriorTraining
from pipeline.training.inputs import TaskInputs, prior_text
from pipeline.training.launch import settings_for
from pipeline.training.linear_prior import fit_linear_prior
from pipeline.training.loop import train_loop
from pipeline.training.tasks import build_task
from tests.synthetic import DIM, make_curated, make_embedded, make_keep_list, publish, train_config

CLIP = ClipConfig(
    embed_dim=8,
    vision=VisionTowerConfig(image_px=16, patch_px=8, width=16, layers=1, heads=2),
    text=TextTowerConfig(width=8, layers=1, heads=1),
)
COLOURS = ("red", "green", "blue", "yellow")
MODEL = AutoregressivePriorConfig(
    clip=ClipShape(embed_dim=8, text_width=8),
    width=32,
    layers=2,
    head_width=16,
    prefix_tokens=8,
    num_buckets=16,
    dot_buckets=4,
)


def task_config(**changes):
    values = {"type": "autoregressive_prior", "model": MODEL, "caption_drop_prob": 0.0}
    return AutoregressivePriorTaskConfig(**(values | changes))


def sample(position):
    """A caption of one colour; the picture's embedding is the colour's, with some noise."""
    colour = position % 4
    rng = generator(0, "sample", position)
    centre = generator(0, "colour", colour).standard_normal(8)
    caption = f"a {COLOURS[colour]} circle"
    z_img = (centre + 0.1 * rng.standard_normal(8)).astype(np.float32)
    return Sample(
        position=position,
        key=f"{position:032x}",
        image=None,
        captions=(caption,),
        text_tokens=(np.array(tokenizer().encode(caption), dtype=np.int64),),
        z_img=z_img,
        z_txt=(centre.astype(np.float32),),
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    uri = str(folder / "clip.safetensors")
    state = build_clip(CLIP).state_dict()
    weights_file.export_weights(uri, state, {"model": CLIP.model_dump(mode="json")}, "clip")
    z_img = np.stack([sample(position).z_img for position in range(256)])
    tables, _ = fit_codes(
        principal_components([z_img.astype(np.float16)], 8),
        z_img,
        np.linspace(0.5, 1, 256, dtype=np.float32),
        max_error=0.01,
        num_buckets=16,
        dot_buckets=4,
    )
    (folder / CODES).write_bytes(as_file(tables))
    return TaskInputs(clip_weights_uri=uri, codes_uri=str(folder / CODES))


def batch_of(task, positions):
    rows = [task.prepare(sample(p), generator(0, "train", p)) for p in positions]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def learned(task, positions, steps):
    torch.manual_seed(0)
    model, batch = task.build(), batch_of(task, positions)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    history = []
    for _ in range(steps):
        losses, _ = task.loss(model, batch)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        history.append(losses.mean().item())
    return model.eval(), batch, history


def test_one_batch_is_learned_by_heart(inputs):
    task = build_task(task_config(), inputs)
    model, batch, history = learned(task, range(4), 60)
    assert history[0] == pytest.approx(np.log(16), rel=0.2)
    assert history[-1] < 0.2 * history[0]
    _, metrics = task.loss(model, batch)
    assert metrics["code_accuracy"] > 0.9
    assert metrics["cosine_to_z_img"] > 0.95


def test_shuffled_captions_and_embeddings_raise_the_loss(inputs):
    task = build_task(task_config(), inputs)
    model, batch, _ = learned(task, range(64), 60)
    codes = model.codes.encode(batch["z_img"])
    dot = model.codes.dot_code(batch["z_img"], batch["z_txt"])
    z_txt, states, mask = prior_text(None, task._text, batch)
    other = torch.arange(64).roll(1)  # the next colour

    def nats(z_txt, states, mask):
        with torch.no_grad():
            logits = model(codes, dot, z_txt, states, mask)
        return F.cross_entropy(logits.transpose(1, 2), codes).item()

    true = nats(z_txt, states, mask)
    assert nats(z_txt[other], states, mask) > true + 0.1
    assert nats(z_txt, states[other], mask[other]) > true + 0.1
    assert nats(z_txt[other], states[other], mask[other]) > true + 0.5


def test_the_draws_are_the_caption_alone_and_the_dot_product_outlives_it(inputs):
    dropping = build_task(task_config(caption_drop_prob=1.0), inputs)
    batch = batch_of(dropping, range(4))
    assert (batch["text_tokens"][:, 2:] == 0).all()
    expected = torch.stack([torch.from_numpy(sample(p).z_txt[0]) for p in range(4)])
    torch.testing.assert_close(batch["z_txt"], expected)


def test_a_task_with_tokens_of_its_own_brings_them(inputs):
    own = OwnText(
        type="own", vocabulary="bytes", context_length=20, width=16, layers=1, head_width=16
    )
    task = build_task(task_config(model=MODEL.model_copy(update={"text": own})), inputs)
    _, batch, history = learned(task, range(8), 60)
    assert batch["own_tokens"].shape == (8, 20)
    assert history[-1] < 0.4 * history[0]


def test_without_tables_there_is_no_prior(inputs):
    with pytest.raises(ConfigError, match="needs their tables"):
        build_task(task_config(), TaskInputs()).build()


# -- on a data set -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    curated = make_curated(folder)
    embedded = make_embedded(folder, curated)
    uri = folder / "select" / "000000000000"
    keep = make_keep_list(folder / "select", curated)
    uri.mkdir(parents=True)
    Path(keep.uri).rename(uri / "generative.parquet")
    entry = {**keep.entry, "name": "generative.parquet"}
    selected = publish(str(uri), "select", {"profiles": {"generative": entry}})
    return {"curate": curated, "embed": embedded, "select": selected, "clip": clip_of_six(folder)}


def clip_of_six(folder) -> Result:
    torch.manual_seed(0)
    text = TextTowerConfig(width=8, layers=1, heads=1)
    config = CLIP.model_copy(update={"embed_dim": DIM, "text": text})
    uri = str(folder / "clip" / "000000000000")
    weights = storage.join(uri, "weights.safetensors")
    task = {"task": {"type": "clip", "model": config.model_dump(mode="json")}}
    weights_file.export_weights(weights, build_clip(config).state_dict(), task, "clip")
    entry = {"name": "weights.safetensors", "sha256": storage.sha256_of(weights)}
    return publish(uri, "clip", {"weights": entry})


SHAPE = ClipShape(embed_dim=DIM, text_width=8)
SPLIT = SplitConfig(seed=3, validation_share=0.2, test_share=0.1)


def test_codes_are_fitted_once_from_the_training_split(stages, tmp_path):
    embedded = EmbeddedDataset(stages["embed"], CuratedDataset(stages["curate"]))
    keep = keep_list(stages["select"], "generative")
    model = MODEL.model_copy(update={"clip": SHAPE})
    config = task_config(model=model, max_pca_error=0.2)
    facts = publish_codes(config, embedded, keep, str(tmp_path))
    tables = read_tables(str(tmp_path / CODES))
    assert facts["num_samples"] == sum(keep.counts("train"))
    assert facts["num_components"] == len(tables["components"]) < DIM
    assert 0 < facts["squared_error"] < 0.3
    before = (tmp_path / CODES).read_bytes()
    assert publish_codes(config, embedded, keep, str(tmp_path)) == facts
    (tmp_path / "codes.json").unlink()
    assert publish_codes(config, embedded, keep, str(tmp_path)) == facts
    assert (tmp_path / CODES).read_bytes() == before


def test_the_autoregressive_prior_trains_in_the_loop_and_says_how_many_codes(stages, tmp_path):
    model = MODEL.model_copy(update={"clip": SHAPE})
    task = task_config(model=model).model_dump(mode="json")
    config = train_config(task=task, samples=80)
    settings = settings_for(config, stages, str(tmp_path), SPLIT)
    train_loop(settings)
    state, published = weights_file.load_weights(str(tmp_path / "weights.safetensors"))
    assert published["task"]["type"] == "autoregressive_prior"
    found = state["codes.components"].shape[0]
    assert published["codes"]["num_components"] == found
    final = json.loads((tmp_path / "loop.json").read_text())["final"]
    assert np.isfinite(final["validation_loss"])


def test_activation_checkpointing_changes_no_weight(stages, tmp_path):
    task = task_config(model=MODEL.model_copy(update={"clip": SHAPE})).model_dump(mode="json")
    execution = {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1e9}
    found = []
    for name, checkpointed in (("plain", False), ("kept", True)):
        execution["activation_checkpointing"] = checkpointed
        config = train_config(task=task, samples=24, execution=execution)
        train_loop(settings_for(config, stages, str(tmp_path / name), SPLIT))
        found.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert found[0] == found[1]


def linear(**changes):
    task = {"type": "linear_prior", "model": {"clip": SHAPE.model_dump(), "ridge": 1e-3} | changes}
    return LinearPriorTraining.model_validate({"task": task, "profile": "generative"})


def test_the_linear_prior_learns_what_captions_say_of_pictures(stages, tmp_path):
    output = fit_linear_prior(linear(), stages, str(tmp_path / "a"), Progress())
    content = output.content
    assert content["num_parameters"] == DIM * (DIM + 1)
    # z_txt is z_img with noise: the regression must beat the mean, whose error is the variance, 1.
    assert content["final"]["validation_loss"] < 0.5
    assert content["final"]["validation_cosine_to_z_img"] > 0.7
    again = fit_linear_prior(linear(), stages, str(tmp_path / "b"), Progress())
    assert again.content == content


def test_a_heavy_penalty_leaves_the_mean(stages, tmp_path):
    fit_linear_prior(linear(ridge=1e9), stages, str(tmp_path), Progress())
    state, _ = weights_file.load_weights(str(tmp_path / "weights.safetensors"))
    assert state["linear.weight"].abs().max() < 1e-6
