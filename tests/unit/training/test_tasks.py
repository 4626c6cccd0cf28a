import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import weights_file
from pipeline.diffusion.config import BlurConfig, DiffusionConfig
from pipeline.draws import generator
from pipeline.errors import ConfigError, DataError
from pipeline.models.config import (
    ClipConfig,
    ClipShape,
    DecoderConfig,
    OwnText,
    PriorConfig,
    TextTowerConfig,
    UNetConfig,
    UpsamplerConfig,
    VisionTowerConfig,
)
from pipeline.models.presets import build_clip
from pipeline.models.tokenizer import tokenizer
from pipeline.shards.loader import Sample
from pipeline.shards.views import shrunk
from pipeline.training.config import (
    ClipTaskConfig,
    DecoderTaskConfig,
    PriorTaskConfig,
    UpsamplerTaskConfig,
)
from pipeline.training.inputs import TaskInputs, statistics
from pipeline.training.preparation import random_square
from pipeline.training.tasks import build_task

CLIP = ClipConfig(
    embed_dim=8,
    vision=VisionTowerConfig(image_px=16, patch_px=8, width=16, layers=1, heads=2),
    text=TextTowerConfig(width=8, layers=1, heads=1),
)
SHAPE = ClipShape(embed_dim=8, text_width=8)
UNET = UNetConfig(channels=16, multipliers=(1, 2), res_blocks=1, head_width=8, norm_groups=2)
PLAIN = UNET.model_copy(update={"mid_attention": False})
OWN = OwnText(type="own", vocabulary="bytes", context_length=20, width=16, layers=1, head_width=8)
COLOURS = ("red", "green", "blue", "yellow")


def configs():
    return {
        "clip": ClipTaskConfig(type="clip", model=CLIP),
        "prior": PriorTaskConfig(
            type="prior",
            model=PriorConfig(clip=SHAPE, width=32, layers=1, head_width=16),
            diffusion=DiffusionConfig(prediction="x_start"),
        ),
        "decoder": DecoderTaskConfig(
            type="decoder",
            model=DecoderConfig(clip=SHAPE, image_px=8, unet=UNET, context_width=16),
            diffusion=DiffusionConfig(prediction="eps"),
            view_px=16,
        ),
        "glide": DecoderTaskConfig(
            type="decoder",
            model=DecoderConfig(
                clip=SHAPE,
                image_px=8,
                unet=UNET,
                context_width=16,
                text=OWN,
                embedding="none",
                learned_variance=True,
            ),
            diffusion=DiffusionConfig(prediction="eps"),
            view_px=16,
        ),
        "scaled_prior": PriorTaskConfig(
            type="prior",
            model=PriorConfig(
                clip=SHAPE,
                width=32,
                layers=1,
                head_width=16,
                text=OWN,
                space="scaled",
                padding="last",
            ),
            diffusion=DiffusionConfig(prediction="x_start"),
        ),
        "upsampler": UpsamplerTaskConfig(
            type="upsampler",
            model=UpsamplerConfig(low_px=4, high_px=16, unet=PLAIN),
            diffusion=DiffusionConfig(prediction="x_start"),
            view_px=16,
            crop_px=8,
            degradation=BlurConfig(),
        ),
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    torch.manual_seed(0)
    uri = str(tmp_path_factory.mktemp("clip") / "clip.safetensors")
    state = build_clip(CLIP).state_dict()
    weights_file.export_weights(uri, state, {"model": CLIP.model_dump(mode="json")}, "clip")
    return TaskInputs(clip_weights_uri=uri, z_mean=(0.0,) * 8, z_std=(1.0,) * 8)


def sample(position, captions=None, side=16):
    rng = generator(0, "sample", position)
    captions = captions or (f"a {COLOURS[position % 4]} circle",)
    image = np.full((16, 16, 3), 200, dtype=np.uint8)
    image[4:12, 4:12] = 255 * np.eye(4, 3)[position % 4]
    return Sample(
        position=position,
        key=f"{position:032x}",
        image=shrunk(image, side),
        captions=captions,
        text_tokens=tuple(np.array(tokenizer().encode(c), dtype=np.int64) for c in captions),
        z_img=rng.standard_normal(8).astype(np.float32),
        z_txt=tuple(np.zeros(8, dtype=np.float32) for _ in captions),
    )


def batch_of(task, positions, purpose="train"):
    samples = [sample(p, side=task.image_px or 16) for p in positions]
    rows = [task.prepare(each, generator(0, purpose, each.position)) for each in samples]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


@pytest.fixture(params=["clip", "prior", "scaled_prior", "decoder", "glide", "upsampler"])
def task(request, inputs):
    return build_task(configs()[request.param], inputs)


def test_one_loss_per_sample_and_scalar_metrics(task):
    torch.manual_seed(0)
    losses, metrics = task.loss(task.build(), batch_of(task, range(3)))
    assert losses.shape == (3,)
    assert torch.isfinite(losses).all()
    assert metrics
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())


def test_draws_are_a_function_of_the_position(task):
    one, again = batch_of(task, [5]), batch_of(task, [5])
    for name in one:
        torch.testing.assert_close(one[name], again[name], rtol=0, atol=0)
    if "eps" in one:
        assert not torch.equal(one["eps"], batch_of(task, [6])["eps"])


def test_the_loss_draws_nothing(task):
    torch.manual_seed(0)
    model, batch = task.build(), batch_of(task, range(3))
    first, _ = task.loss(model, batch)
    second, _ = task.loss(model, batch)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_one_batch_is_learned_by_heart(task):
    torch.manual_seed(0)
    model, batch = task.build(), batch_of(task, range(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    history = []
    for _ in range(40):
        losses, _ = task.loss(model, batch)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        history.append(losses.mean().item())
    assert history[-1] < 0.6 * history[0]


def test_picture_models_show_pictures_and_others_none(task):
    torch.manual_seed(0)
    batch = batch_of(task, range(2))
    pictures = task.pictures(task.build().eval(), batch)
    if task.config.type in ("clip", "prior"):
        assert pictures is None
    else:
        assert pictures.dtype == torch.uint8
        assert pictures.shape == (2, 3, 8, 8)


def drop_rates(task, count=400):
    empty = torch.from_numpy(tokenizer()([""]))[0]
    batch = batch_of(task, range(count))
    captions = (batch["text_tokens"] == empty).all(dim=1).float().mean().item()
    return captions, 1 - batch["has_z_img"].float().mean().item() if "has_z_img" in batch else None


def test_conditions_are_dropped_at_their_rates(inputs):
    captions, z_img = drop_rates(build_task(configs()["decoder"], inputs))
    assert captions == pytest.approx(0.5, abs=0.08)
    assert z_img == pytest.approx(0.1, abs=0.05)
    captions, _ = drop_rates(build_task(configs()["prior"], inputs))
    assert captions == pytest.approx(0.1, abs=0.05)


@given(st.floats(0.3, 1.0), st.integers(0, 2**32 - 1))
def test_a_random_square_is_a_part_of_the_picture_and_fills_its_side(min_share, seed):
    ramp = np.arange(32, dtype=np.uint8) * 8
    image = np.stack([np.tile(ramp, (32, 1)), np.tile(ramp[:, None], (1, 32))] * 2, axis=2)[..., :3]
    square = random_square(image, np.random.default_rng(seed), min_share)
    assert square.shape == image.shape
    across, down = square[16, :, 0].astype(float), square[:, 16, 1].astype(float)
    side = [(line[27] - line[4]) / (23 * 8) for line in (across, down)]  # share of the side shown
    assert side[0] == pytest.approx(side[1], abs=0.02)
    assert min_share**0.5 - 0.02 <= side[0] <= 1.02


def test_clip_sees_whole_pictures_unless_told(inputs):
    whole, cut = (
        build_task(ClipTaskConfig(type="clip", model=CLIP, min_crop_share=share), inputs)
        for share in (1.0, 0.5)
    )
    shown = [task.prepare(sample(1), generator(0, "train", 1))["image"] for task in (whole, cut)]
    assert np.array_equal(shown[0], sample(1).image.transpose(2, 0, 1))
    assert not np.array_equal(*shown)
    assert "min_crop_share" not in whole.config.model_dump()


def test_captions_of_a_sample_are_drawn_evenly(inputs):
    task = build_task(configs()["clip"], inputs)
    pair = ("a red circle", "a blue circle")
    drawn = [
        task.prepare(sample(p, pair), generator(0, "train", p))["text_tokens"].tolist()
        for p in range(200)
    ]
    first, second = tokenizer()(pair).tolist()
    assert 70 < drawn.count(first) < 130
    assert drawn.count(first) + drawn.count(second) == 200


def test_crops_of_both_pictures_show_the_same_place(inputs):
    config = configs()["upsampler"]
    task = build_task(config, inputs)
    ramp = np.tile(np.arange(16, dtype=np.uint8)[:, None, None] * 10, (1, 16, 3))
    for position in range(10):
        given = sample(position)
        moved = Sample(**(vars(given) | {"image": ramp}))
        arrays = task.prepare(moved, generator(0, "train", position))
        assert arrays["image"].shape == (3, 8, 8)
        assert arrays["low_res"].shape == (3, 2, 2)
        high, low = (arrays[name].astype(float).mean() for name in ("image", "low_res"))
        assert high == pytest.approx(low, abs=10)  # the blur repeats the border


def test_the_weight_of_high_noise_is_capped(inputs):
    config = configs()["decoder"]
    batch, losses = None, []
    for cap in (1.0, 5.0):
        task = build_task(config.model_copy(update={"max_loss_weight": cap}), inputs)
        torch.manual_seed(0)
        batch = batch or batch_of(task, range(8))
        losses.append(task.loss(task.build(), batch)[0])
    ratio = losses[1] / losses[0]
    signal = torch.cos((batch["t"] + 1) / 1000 * torch.pi / 2) ** 2
    torch.testing.assert_close(ratio, (1 / signal).clamp(max=5.0), atol=0.05, rtol=0.05)


def test_min_snr_weighs_the_clean_pictures_error(inputs):
    config = configs()["decoder"]
    batch, losses = None, []
    for gamma in (None, 5.0):
        task = build_task(config.model_copy(update={"snr_gamma": gamma}), inputs)
        torch.manual_seed(0)
        batch = batch or batch_of(task, range(8))
        losses.append(task.loss(task.build(), batch)[0])
    signal = torch.cos((batch["t"] + 1) / 1000 * torch.pi / 2) ** 2
    expected = (5 * (1 - signal) / signal).clamp(max=1.0)  # the task predicts eps
    torch.testing.assert_close(losses[1] / losses[0], expected, atol=0.05, rtol=0.05)


def test_one_weighting_at_a_time():
    values = configs()["decoder"].model_dump()
    with pytest.raises(ValidationError, match=r"snr_gamma=5.0 and max_loss_weight=5.0 both"):
        DecoderTaskConfig(**(values | {"snr_gamma": 5.0, "max_loss_weight": 5.0}))


def test_learned_variance_adds_its_bound(inputs):
    config = configs()["decoder"]
    model = config.model.model_copy(update={"learned_variance": True})
    task = build_task(config.model_copy(update={"model": model}), inputs)
    losses, metrics = task.loss(task.build(), batch_of(task, range(4)))
    assert torch.isfinite(losses).all()
    assert metrics["vlb_bits"] > 0


def test_missing_inputs_are_refused(inputs):
    task = build_task(configs()["prior"], TaskInputs())
    with pytest.raises(ConfigError, match="statistics"):
        task.build()
    with pytest.raises(ConfigError, match="weights of a CLIP"):
        task.loss(build_task(configs()["prior"], inputs).build(), batch_of(task, range(2)))


def test_a_sample_without_what_the_task_reads_is_refused(inputs):
    bare = Sample(**(vars(sample(0)) | {"image": None, "z_img": None}))
    for name, words in (("decoder", "picture"), ("prior", "z_img")):
        with pytest.raises(DataError, match=words):
            build_task(configs()[name], inputs).prepare(bare, generator(0, "train", 0))


def test_constant_dimensions_are_not_divided_by_zero(inputs):
    _, std = statistics(TaskInputs(z_mean=(0.0, 0.0), z_std=(2.0, 0.0)))
    assert std.tolist() == pytest.approx([2.0, 2e-4])


def test_a_decoder_of_captions_embeddings_is_given_the_drawn_captions(inputs):
    config = configs()["decoder"]
    model = config.model.model_copy(update={"embedding": "z_txt"})
    task = build_task(config.model_copy(update={"model": model}), inputs)
    vectors = (np.full(8, 1.0, np.float32), np.full(8, 2.0, np.float32))
    for position in range(8):
        pair = sample(position, ("a red circle", "a blue circle"))
        given = Sample(**(vars(pair) | {"z_txt": vectors}))
        rng, again = (generator(0, "train", position) for _ in range(2))
        arrays = task.prepare(given, rng)
        assert arrays["z_img"].tolist() == vectors[int(again.integers(2))].tolist()


def test_a_text_only_decoder_never_has_an_embedding(inputs):
    batch = batch_of(build_task(configs()["glide"], inputs), range(20))
    assert not batch["has_z_img"].any()
    assert batch["own_tokens"].shape == (20, 20)


def test_losses_are_told_by_quarters_of_the_process(inputs):
    task = build_task(configs()["prior"], inputs)
    torch.manual_seed(0)
    losses, metrics = task.loss(task.build(), batch_of(task, range(16)))
    quarters = [metrics[f"loss_t{quarter}_of_4"] for quarter in range(1, 5)]
    torch.testing.assert_close(sum(quarters) / 4, losses.detach().mean())
