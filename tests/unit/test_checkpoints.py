"""A checkpoint is complete or invisible, and nothing damaged is ever unpickled."""

import json
import os
import pickle
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline import checkpoints, results, weights_file
from pipeline.errors import CheckpointError, DataError


def state(value: float) -> checkpoints.State:
    return {
        "model": {"weight": torch.full((4, 3), value), "scale": torch.tensor(value)},
        "progress": {"samples": torch.tensor([int(value)])},
    }


def test_saved_state_comes_back_in_place_with_its_position(tmp_path):
    uri = checkpoints.save(str(tmp_path), state(3.0), 96)
    assert Path(uri).name == "step-000000000096"
    found = state(0.0)
    weight = found["model"]["weight"]
    assert checkpoints.load(uri, found) == 96
    assert torch.equal(weight, torch.full((4, 3), 3.0))
    assert found["progress"]["samples"].tolist() == [3]


def test_only_complete_checkpoints_are_selected_and_orphans_are_cleaned(tmp_path):
    first = checkpoints.save(str(tmp_path), state(1.0), 8)
    second = checkpoints.save(str(tmp_path), state(2.0), 16)
    Path(second, "manifest.json").unlink()
    assert checkpoints.latest(str(tmp_path)) == first
    assert checkpoints.clean(str(tmp_path)) == ["step-000000000016"]
    assert not Path(second).exists()
    assert checkpoints.clean(str(tmp_path)) == []


def test_only_the_last_ones_are_kept(tmp_path):
    saved = [checkpoints.save(str(tmp_path), state(float(n)), 8 * n) for n in range(1, 5)]
    checkpoints.keep_last(str(tmp_path), 2)
    assert checkpoints.completed(str(tmp_path)) == saved[2:]
    assert not Path(saved[0]).exists()


def test_files_of_another_version_are_refused_with_it(tmp_path):
    uri = checkpoints.save(str(tmp_path / "checkpoints"), state(1.0), 8)
    given = {"stage": "clip", "identity": "x", "config": {}, "inputs": {}, "content": {}}
    results.publish_result(str(tmp_path / "clip"), **given, circumstance={})
    for manifest in (Path(uri, "manifest.json"), tmp_path / "clip" / "manifest.json"):
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 2}))
    with pytest.raises(CheckpointError, match="schema_version=2, this version reads 1"):
        checkpoints.load(uri, state(0.0))
    with pytest.raises(DataError, match="schema_version=2, this version reads 1"):
        results.read_result(str(tmp_path / "clip"))


class Bomb:
    def __reduce__(self):
        return (os._exit, (9,))


@pytest.mark.parametrize("damage", ["bomb", "cut", "flipped", "extra", "missing"])
def test_a_damaged_checkpoint_is_refused_before_unpickling(tmp_path, damage):
    uri = Path(checkpoints.save(str(tmp_path), state(1.0), 8))
    data = uri / "__0_0.distcp"
    content = data.read_bytes()
    if damage == "bomb":
        (uri / ".metadata").write_bytes(pickle.dumps(Bomb()))
    elif damage == "cut":
        data.write_bytes(content[:-1])
    elif damage == "flipped":
        data.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif damage == "extra":
        (uri / "__1_0.distcp").write_bytes(b"x")
    else:
        data.unlink()
    with pytest.raises(CheckpointError):
        checkpoints.load(str(uri), state(0.0))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    uri = checkpoints.save(str(tmp_path), state(1.0), 8)
    other = state(0.0)
    other["model"]["more"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match="does not fit"):
        checkpoints.load(uri, other)


def save_and_die(uri: Path, point: str) -> int:
    """Save a second checkpoint in a forked process that SIGKILL meets at a failpoint."""
    child = os.fork()
    if child == 0:
        os.environ["FAIL_AT"] = f"checkpoints.{point}"
        checkpoints.save(str(uri), state(2.0), 16)
        checkpoints.keep_last(str(uri), 1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Python 3.12 warns of forks beside threads; the child only writes files.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    "point",
    ["before_files", "after_files", "before_manifest", "after_manifest", "after_unlisting"],
)
def test_a_kill_at_any_point_leaves_the_old_or_the_new_checkpoint(tmp_path, point):
    checkpoints.save(str(tmp_path), state(1.0), 8)
    assert save_and_die(tmp_path, point) == -signal.SIGKILL
    checkpoints.clean(str(tmp_path))
    found = state(0.0)
    expected = 2 if point in ("after_manifest", "after_unlisting") else 1
    assert checkpoints.load(checkpoints.latest(str(tmp_path)), found) == 8 * expected
    assert found["progress"]["samples"].tolist() == [expected]


def test_weights_carry_their_configuration_and_equal_input_gives_equal_bytes(tmp_path):
    tensors = {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.tensor([1], dtype=torch.int64)}
    tensors["half"] = torch.ones(3, dtype=torch.bfloat16)
    config = {"width": 3, "name": "größe"}
    paths = [str(tmp_path / name) for name in ("one.safetensors", "two.safetensors")]
    weights_file.export_weights(paths[0], tensors, config, "prior")
    weights_file.export_weights(paths[1], dict(reversed(tensors.items())), config, "prior")
    assert Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()
    found, read_config = weights_file.load_weights(paths[0])
    assert read_config == config
    assert set(found) == set(tensors)
    for name, tensor in load_file(paths[0]).items():
        assert torch.equal(tensor, tensors[name])
        assert torch.equal(found[name], tensors[name])


def test_weights_without_configuration_or_with_broken_bytes_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match="no configuration"):
        weights_file.load_weights(str(path))
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="no readable"):
        weights_file.load_weights(str(path))


def test_a_state_that_does_not_fit_is_named_key_by_key():
    model = nn.Linear(3, 2)
    given = {"weight": torch.zeros(2, 4), "more": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        weights_file.load_state(model, given, "w.safetensors")
    message = str(caught.value)
    assert "missing: bias" in message
    assert "unknown: more" in message
    assert "weight (2, 4) for (2, 3)" in message
