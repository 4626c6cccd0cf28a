import json

import numpy as np
import pytest

from pipeline import storage
from pipeline.errors import DataError
from pipeline.models.config import AutoregressivePriorConfig, ClipShape
from pipeline.shards.keep_list import keep_list
from pipeline.shards.select_config import SplitConfig
from pipeline.training import condition_check
from pipeline.training.condition_check import AS_IS, HeldOutLosses
from pipeline.training.launch import settings_for
from pipeline.training.loop import train_loop
from tests import tiny_stack
from tests.synthetic import DIM, make_curated, make_embedded, make_keep_list, publish, train_config

SPLIT = SplitConfig(seed=3, validation_share=0.2, test_share=0.1)
SHAPE = ClipShape(embed_dim=DIM, text_width=8)
CODES = AutoregressivePriorConfig(
    clip=SHAPE, width=32, layers=1, head_width=16, prefix_tokens=8, num_buckets=8, dot_buckets=4
)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditions")
    curated = make_curated(folder)
    keep = make_keep_list(folder / "select" / "list", curated)
    entry = {**keep.entry, "name": "keep/clip.parquet"}
    selected = publish(str(folder / "select" / "list"), "select", {"profiles": {"all": entry}})
    stack = tiny_stack.make_stack(folder)
    embedded = make_embedded(folder, curated)
    return {**stack, "curate": curated, "embed": embedded, "select": selected}


def losses(stages, stage, **changes):
    values = {"num_samples": 12, "num_draws": 2, "seed": 1, "batch_size": 5, "threads": 1}
    keep = keep_list(stages["select"], "all")
    return HeldOutLosses(stage=stage, inputs=stages, keep=keep, **(values | changes))()


def test_losses_are_paired_and_do_not_depend_on_the_batch(stages):
    found = losses(stages, stages["decoder"])["losses"]
    assert set(found) == {AS_IS, "caption_shuffled", "z_img_shuffled", "both_shuffled"}
    assert {len(rows) for rows in found.values()} == {12}
    for name in set(found) - {AS_IS}:
        assert found[name] != found[AS_IS]
    whole = losses(stages, stages["decoder"], batch_size=12)["losses"]
    for name, rows in found.items():
        np.testing.assert_allclose(rows, whole[name], rtol=1e-4)


def test_a_prior_reads_states_and_embedding_apart(stages):
    found = losses(stages, stages["prior"])["losses"]
    names = ("caption_shuffled", "text_states_shuffled", "z_txt_shuffled")
    assert set(found) == {AS_IS, *names}
    rows = [found[name] for name in (AS_IS, *names)]
    assert all(a != b for place, a in enumerate(rows) for b in rows[:place])


def test_where_nobody_else_has_another_caption_shuffling_changes_nothing(stages, monkeypatch):
    monkeypatch.setattr(condition_check, "shuffled_partners", lambda num, seed: list(range(num)))
    found = losses(stages, stages["prior"])["losses"]
    for rows in found.values():
        np.testing.assert_allclose(rows, found[AS_IS], rtol=1e-6)


def trained_codes(stages, folder):
    task = {
        "type": "autoregressive_prior",
        "model": CODES.model_dump(mode="json"),
        "max_pca_error": 0.2,
    }
    config = train_config(task=task, samples=240, profile="all", learning_rate=3e-3)
    uri = str(folder / "autoregressive_prior")
    train_loop(settings_for(config, stages, uri, SPLIT))
    entry = {"name": "weights.safetensors"}
    entry["sha256"] = storage.sha256_of(f"{uri}/weights.safetensors")
    return publish(uri, "prior", {"weights": entry})


def test_codes_have_a_loss_per_condition_and_errors_as_configured(stages, tmp_path):
    stage = trained_codes(stages, tmp_path)
    found = losses(stages, stage)
    names = {AS_IS, "caption_shuffled", "text_states_shuffled", "z_txt_shuffled", "dot_shuffled"}
    assert set(found["losses"]) == names
    facts = json.loads((tmp_path / "autoregressive_prior" / "codes.json").read_text())
    assert facts["num_components"] < DIM
    left_out, coded = (np.mean(found["coding"][name]) for name in ("left_out", "coded"))
    # Held out and few: the bound of the training split, with room for chance.
    assert 0 < left_out < 2 * found["max_pca_error"]
    assert left_out < coded < 1
    assert found["num_buckets"] == 8
    # One draw is all there is of a loss without noise.
    again = losses(stages, stage, num_draws=5)
    np.testing.assert_allclose(found["losses"][AS_IS], again["losses"][AS_IS], rtol=1e-6)


def test_a_model_without_captions_is_refused(stages):
    with pytest.raises(DataError, match="of kind upsampler reads no captions"):
        losses(stages, stages["upsampler_8_16"])
