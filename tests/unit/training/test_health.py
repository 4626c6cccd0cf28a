"""What held-out samples say of a model, against numbers worked out by hand."""

import pytest
import torch

from pipeline.training import guided, tasks
from pipeline.training.health import Judged, draw_cosines, retrieval
from pipeline.training.tasks import build_task, undropped
from tests.unit.training import test_priors, test_tasks

inputs, ar_inputs = test_tasks.inputs, test_priors.inputs


def test_cosines_of_draws_by_hand():
    z_img = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    drawn = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    z_txt = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    half = 0.5**0.5
    assert draw_cosines(drawn, z_img, z_txt) == pytest.approx(
        {
            "draw_cosine_to_z_img": (1 + half + 0) / 3,
            "draw_cosine_to_other_z_img": (0 - half + 0)
            / 3,  # the next row's, the last the first's
            "draw_cosine_to_z_txt": (0 + half + 1) / 3,
            "z_txt_cosine_to_z_img": (0 + 1 + 0) / 3,
        },
        abs=1e-6,
    )


def test_retrieval_counts_distinct_captions_once():
    # Rows 0 and 1 have one caption, whose picture is row 0's; caption 7 finds the wrong picture.
    z_img = torch.tensor([[1.0, 0.0, 0.0], [9.0, 9.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    z_txt = torch.tensor([[5.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 0.0, 3.0]])
    tokens = torch.tensor([[4, 5], [4, 5], [4, 7], [6, 5]])
    found = retrieval(z_img, z_txt, tokens)
    assert found == pytest.approx({"recall_at_1": 2 / 3, "recall_gallery": 3.0})


def made_of(task, model, batch, seeds):
    with torch.no_grad():
        return task.made(model, batch, seeds)


def diffusion_prior(inputs):
    task = undropped(build_task(test_tasks.configs()["prior"], inputs))
    torch.manual_seed(0)
    model, batch = task.build(), test_tasks.batch_of(task, range(16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    # The four colours' pictures, so that captions tell which.
    batch["z_img"] = batch["z_img"][torch.arange(16) % 4]
    for _ in range(150):
        optimizer.zero_grad()
        task.loss(model, batch | {"t": torch.randint(1000, (16,))})[0].mean().backward()
        optimizer.step()
    return task, model.eval(), batch


def autoregressive_prior(inputs):
    task = build_task(test_priors.task_config(), inputs)
    model, batch, _ = test_priors.learned(task, range(16), 60)
    return task, model, batch


@pytest.mark.parametrize(
    ("trained", "given"), [(diffusion_prior, "inputs"), (autoregressive_prior, "ar_inputs")]
)
def test_draws_of_a_trained_prior_are_closest_to_their_own_pictures(trained, given, request):
    task, model, batch = trained(request.getfixturevalue(given))
    assert isinstance(task, Judged)
    seeds = list(range(16))
    made = made_of(task, model, batch, seeds)
    found = task.judge(made)
    assert found["draw_cosine_to_z_img"] > 0.8
    assert found["draw_cosine_to_z_img"] > found["draw_cosine_to_other_z_img"] + 0.3
    again = made_of(task, model, batch, seeds)["drawn"]
    assert torch.equal(again, made["drawn"])
    one = made_of(task, model, {name: value[5:6] for name, value in batch.items()}, seeds[5:6])
    torch.testing.assert_close(one["drawn"], made["drawn"][5:6], atol=1e-4, rtol=1e-4)


def test_undropped_samples_keep_every_condition_and_all_other_draws(inputs):
    for name in ("prior", "decoder", "clip"):
        task = build_task(test_tasks.configs()[name], inputs)
        dropped, kept = (test_tasks.batch_of(each, range(40)) for each in (task, undropped(task)))
        if name != "clip":
            assert (dropped["text_tokens"] != kept["text_tokens"]).any()
            assert torch.equal(dropped["eps"], kept["eps"])
        assert (kept["text_tokens"][:, 1] != test_tasks.tokenizer().encode("")[1]).all()
        if name == "decoder":
            assert kept["has_z_img"].all()


def test_guidance_of_scale_one_is_none_and_more_moves_away(inputs, monkeypatch):
    monkeypatch.setattr(tasks, "PREVIEW_STEPS", guided.STEPS)
    task = undropped(build_task(test_tasks.configs()["decoder"], inputs))
    torch.manual_seed(0)
    model = task.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    batch = test_tasks.batch_of(task, range(3))
    pictures = task.guided_pictures(model.eval(), batch).int()
    assert pictures.shape == (4, 3, 3, 8, 8)
    plain = task.pictures(model, batch).int()
    assert (pictures[0] - plain).abs().max() <= 1
    moved = [(pictures[scale] - pictures[0]).abs().float().mean() for scale in range(4)]
    assert moved[1] > 0
    assert moved[3] > moved[1]
