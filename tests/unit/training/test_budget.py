import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.config import load_run
from pipeline.run_file import RunFile
from pipeline.training.budget import Alive, budget
from tests.benchmarks.budget import AT_MOST, RUN, compared

DEMO = load_run(RunFile, RUN)
CLIP = DEMO.clip.task.model


def planned(stage, *, execution=None, **changes):
    config = dict(DEMO.training_stages())[stage]
    how = config.execution.model_copy(update=execution or {})
    return budget(config.model_copy(update={"execution": how, **changes}), CLIP)


def test_a_storage_counts_once_and_until_it_is_gone():
    with FakeTensorMode(), Alive() as alive:
        kept = torch.zeros(1000)
        view = kept[10:].view(-1, 10)
        view.add_(1)
        assert alive.now_bytes == 4000
        large = torch.zeros(5000)
        del large
        assert (alive.now_bytes, alive.peak_bytes) == (4000, 24_000)
        alive.restart_peak()
        del view, kept
    assert (alive.now_bytes, alive.peak_bytes) == (0, 4000)


def test_what_no_caption_would_reach_is_not_left_out():
    with FakeTensorMode(), Alive():
        ends = torch.zeros(3, 7).argmax(dim=-1)
        assert torch.zeros(3, 7)[:, : int(ends.max()) + 1].shape == (3, 7)


def test_the_state_is_parameters_moments_average_and_the_frozen_clip():
    found = planned("prior")
    buffers_and_steps = found.state_bytes - 16 * found.parameters - 4 * found.frozen_parameters
    assert 0 <= buffers_and_steps < 100_000
    assert found.frozen_parameters == planned("clip").parameters
    assert planned("upsampler_64_256").frozen_parameters == 0


def block_operations(tokens, width):
    """Projections of 12 width² weights, and two products of all tokens with all."""
    return tokens * 2 * 12 * width**2 + 2 * 2 * tokens**2 * width


def test_operations_of_a_small_clip_by_hand():
    thin = CLIP.model_copy(
        update={
            "vision": CLIP.vision.model_copy(update={"layers": 1}),
            "text": CLIP.text.model_copy(update={"layers": 1}),
        }
    )
    task = DEMO.clip.task.model_copy(update={"model": thin})
    found = budget(DEMO.clip.model_copy(update={"task": task}))
    patches = 16 * 2 * (16 * 16 * 3) * 96
    blocks = block_operations(1 + 16, 96) + block_operations(77, 64)
    projections = 2 * (96 + 64) * 64
    logits = 2 * 2 * 128 * 64
    assert found.forward_flops == patches + blocks + projections + logits


def test_training_is_three_passes_and_checkpointing_a_fourth_of_the_blocks():
    plain, again = (
        planned("upsampler_64_256", execution={"activation_checkpointing": on})
        for on in (False, True)
    )
    assert plain.training_flops == pytest.approx(3 * plain.forward_flops, rel=0.02)
    assert again.forward_flops == plain.forward_flops
    assert 3.6 < again.training_flops / plain.forward_flops < 4
    assert again.peak_bytes < plain.peak_bytes


def test_sharpness_aware_steps_cost_twice():
    plain = planned("upsampler_16_64", execution={"num_workers": 1})
    twice = planned("upsampler_16_64", execution={"num_workers": 1}, sam_rho=0.1)
    assert twice.training_flops == pytest.approx(2 * plain.training_flops, rel=0.01)


def test_activations_grow_with_the_micro_batch_and_shrink_in_half_precision():
    def activations(**changes):
        found = planned("upsampler_16_64", global_batch_size=64, **changes)
        return found.peak_bytes - found.state_bytes

    small, large = activations(micro_batch_size=16), activations(micro_batch_size=32)
    assert 1.6 < large / small < 2
    assert activations(micro_batch_size=32, precision="bfloat16") < 0.75 * large


def test_gradients_add_up_beside_those_of_the_next_pass():
    wide = DEMO.prior.task.model.model_copy(update={"width": 512})
    task = DEMO.prior.task.model_copy(update={"model": wide})
    once, twice = (
        planned("prior", task=task, micro_batch_size=1, global_batch_size=parts) for parts in (1, 2)
    )
    assert once.training_flops == twice.training_flops
    assert once.peak_bytes < twice.peak_bytes


def test_cut_over_workers_each_holds_its_part():
    wide = DEMO.prior.task.model.model_copy(update={"width": 512})
    changes = {
        "task": DEMO.prior.task.model_copy(update={"model": wide}),
        "micro_batch_size": 1,
        "global_batch_size": 8,
    }
    whole = planned("prior", execution={"num_workers": 8}, **changes)
    cut = planned("prior", execution={"num_workers": 8, "strategy": "fsdp"}, **changes)
    pairs = planned(
        "prior", execution={"num_workers": 8, "strategy": "hsdp", "shard_workers": 2}, **changes
    )
    frozen = 4 * whole.frozen_parameters
    assert cut.state_bytes - frozen == pytest.approx(16 * whole.parameters / 8, abs=16)
    assert pairs.state_bytes - frozen == pytest.approx(16 * whole.parameters / 2, abs=16)
    assert cut.peak_bytes < pairs.peak_bytes < whole.peak_bytes
    assert cut.training_flops == whole.training_flops


def test_replicas_exchange_their_gradients_in_one_piece():
    changes = {"micro_batch_size": 1, "global_batch_size": 2}
    alone = planned("upsampler_16_64", execution={"num_workers": 1}, **changes)
    two = planned("upsampler_16_64", execution={"num_workers": 2}, **changes)
    assert two.state_bytes == alone.state_bytes
    assert two.peak_bytes >= 6 * 4 * alone.parameters  # state, gradients and their copy


@pytest.mark.slow
def test_memory_is_what_a_training_takes():
    """As `tests.benchmarks.budget` measures it for every model of the demo."""
    found = compared("upsampler_64_256")
    assert found["planned"] == pytest.approx(found["taken"], rel=AT_MOST)
