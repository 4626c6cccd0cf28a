from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.generation.config import (
    HeldOutPrompts,
    InlinePrompts,
    PartiPrompts,
    PromptFile,
    PromptTable,
)
from pipeline.generation.plan import ABLATIONS, FINAL, plan, shuffled_partners
from pipeline.generation.prompts import Prompt, check, in_turn, read_prompts, resolve
from tests.tiny_stack import generate_config


def some(num):
    return [Prompt(f"prompt {n}", {"colour": f"c{n}"}) for n in range(num)]


@given(st.integers(2, 60), st.integers(0, 5))
def test_partners_are_a_permutation_without_fixed_points(num, seed):
    partners = shuffled_partners(num, seed)
    assert sorted(partners) == list(range(num))
    assert all(partner != index for index, partner in enumerate(partners))


@given(st.integers(1, 30), st.integers(0, 40), st.integers(1, 9))
def test_every_picture_is_planned_once_and_partitions_hold_one_kind(num, ablated, per_shard):
    partitions = plan(some(num), ablated, per_shard, seed=1)
    jobs = [job for partition in partitions for job in partition.jobs]
    assert len({(job.kind, job.index) for job in jobs}) == len(jobs)
    assert sum(job.kind == FINAL for job in jobs) == num
    assert all(len({job.kind for job in p.jobs}) == 1 for p in partitions)
    assert all(1 <= len(p.jobs) <= per_shard for p in partitions)
    assert [p.number for p in partitions] == list(range(len(partitions)))


def test_ablations_change_one_condition_and_keep_the_number():
    jobs = {(j.kind, j.index): j for p in plan(some(4), 3, 8, seed=1) for j in p.jobs}
    assert {kind for kind, _ in jobs} == {FINAL, *ABLATIONS}
    for index in range(3):
        assert jobs["caption_hidden", index].caption == ""
        assert jobs["caption_hidden", index].z_img_prompt == f"prompt {index}"
        assert jobs["mean_z_img", index].caption == f"prompt {index}"
        assert jobs["mean_z_img", index].z_img_prompt is None
        assert jobs["mean_z_img_caption_hidden", index].caption == ""
        moved = jobs["z_img_shuffled", index]
        assert moved.caption == f"prompt {index}"
        assert moved.z_img_prompt == f"prompt {moved.z_img_index}" != moved.caption
        assert moved.z_img_truth == {"colour": f"c{moved.z_img_index}"}


def test_one_picture_cannot_be_shuffled():
    kinds = {job.kind for p in plan(some(1), 1, 8, seed=1) for job in p.jobs}
    assert "z_img_shuffled" not in kinds


def test_prompts_are_used_in_turn(tmp_path):
    inline = InlinePrompts(type="inline", texts=("a", "b"))
    assert [p.text for p in in_turn(resolve(inline, []), 5)] == ["a", "b", "a", "b", "a"]
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n\n a blue square \n")
    found = resolve(PromptFile(type="file", path=str(path)), [])
    assert [p.text for p in found] == ["a red circle", "a blue square"]


def test_held_out_prompts_come_with_their_truth_from_the_caller():
    assert resolve(HeldOutPrompts(type="held_out"), some(3)) == some(3)
    with pytest.raises(ConfigError, match="held_out needs"):
        resolve(HeldOutPrompts(type="held_out"), [])


def test_a_bad_prompt_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        resolve(PromptFile(type="file", path=str(tmp_path / "none")), [])
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        resolve(PromptFile(type="file", path=str(tmp_path / "empty")), [])


def table(tmp_path, column="prompt", **changes):
    path = str(tmp_path / "prompts.parquet")
    pq.write_table(pa.table(changes or {"prompt": ["a red circle", "ein Ä"], "n": [1, 2]}), path)
    return PromptTable(type="parquet", path=path, column=column)


def test_prompts_of_a_table_are_its_rows(tmp_path):
    assert [p.text for p in read_prompts(table(tmp_path))] == ["a red circle", "ein Ä"]


@pytest.mark.parametrize(
    ("column", "changes", "reason"),
    [
        ("text", {}, "has no column 'text', it has prompt, n"),
        ("n", {}, "n is int64, expected text"),
        ("prompt", {"prompt": ["a", None]}, "1 empty rows of 2"),
        ("prompt", {"prompt": pa.array([], pa.string())}, "0 empty rows of 0"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, column, changes, reason):
    with pytest.raises(ConfigError, match=reason):
        resolve(table(tmp_path, column, **changes), [])


def test_a_table_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("no table")
    for name in ("none.parquet", "text.parquet"):
        with pytest.raises(ConfigError, match="cannot read the prompts"):
            resolve(PromptTable(type="parquet", path=str(tmp_path / name)), [])


def test_short_texts_need_no_tokenizer_and_long_ones_are_counted_in_tokens():
    longest = "!?" * 37  # 74 characters, each a token of its own where it can
    check([longest[:74], "word " * 70])
    with pytest.raises(ConfigError, match="longer than the 74 tokens"):
        check(["word " * 80])
    with pytest.raises(ConfigError, match="expected text"):
        check([7])


def test_eta_belongs_to_ddim():
    with pytest.raises(ValueError, match="belongs to sampler ddim"):
        generate_config(decoder={"num_steps": 3, "sampler": "ddpm", "eta": 0.5})


def test_partiprompts_are_chosen_by_category_and_challenge(tmp_path):
    table = tmp_path / "parti.tsv"
    rows = [
        "Prompt\tCategory\tChallenge\tNote",
        "three cats\tAnimals\tQuantity\t",
        "a dog\tAnimals\tBasic\ta note",
        '"a sign that says ""stop"""\tArtifacts\tWriting & Symbols\t',
    ]
    table.write_text("\n".join(rows) + "\n")

    def texts(**chosen):
        config = PartiPrompts(type="parti", path=str(table), **chosen)
        return [prompt.text for prompt in resolve(config, [])]

    assert texts() == ["three cats", "a dog", 'a sign that says "stop"']
    assert texts(categories=("Animals",), challenges=("Quantity",)) == ["three cats"]
    with pytest.raises(ConfigError, match="no Category 'Food', only Animals, Artifacts"):
        texts(categories=("Food",))
    table.write_text("caption\na dog\n")
    with pytest.raises(ConfigError, match="expected a TSV file with the columns Prompt"):
        texts()


def test_prompts_of_talks_can_be_drawn():
    path = Path(__file__).parents[3] / "jobs/configs/prompts/talks.txt"
    found = resolve(PromptFile(type="file", path=str(path)), [])
    assert len({prompt.text for prompt in found}) > 30
