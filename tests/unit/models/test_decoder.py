import pytest
import torch
from pydantic import ValidationError

from pipeline.models.config import ClipShape, DecoderConfig, OwnText, UNetConfig, UpsamplerConfig
from pipeline.models.decoder import Decoder
from pipeline.models.upsampler import Upsampler

UNET = UNetConfig(
    channels=16,
    multipliers=(1, 2),
    res_blocks=1,
    attention_levels=(1,),
    head_width=8,
    norm_groups=8,
)


def decoder(**changes):
    torch.manual_seed(0)
    shape = ClipShape(embed_dim=8, text_width=12)
    config = DecoderConfig(clip=shape, image_px=8, unet=UNET, context_width=16, **changes)
    model = Decoder(config)
    for name, parameter in model.named_parameters():
        if not parameter.any() and name != "null_z":
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def inputs(batch=2):
    torch.manual_seed(1)
    return {
        "x_t": torch.randn(batch, 3, 8, 8),
        "t": torch.full((batch,), 500),
        "z_img": torch.randn(batch, 8),
        "has_z_img": torch.ones(batch, dtype=torch.bool),
        "z_txt": torch.randn(batch, 8),
        "text_states": torch.randn(batch, 5, 12),
        "text_mask": torch.ones(batch, 5, dtype=torch.bool),
    }


@torch.no_grad()
@pytest.mark.parametrize(("learned", "channels"), [(False, 3), (True, 6)])
def test_learned_variance_adds_three_channels(learned, channels):
    assert decoder(learned_variance=learned)(**inputs()).shape == (2, channels, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize("name", ["z_img", "z_txt", "text_states"])
def test_every_condition_matters(name):
    model, given = decoder(), inputs()
    assert not torch.allclose(model(**given | {name: given[name] + 1}), model(**given), atol=1e-4)


@torch.no_grad()
def test_a_dropped_embedding_is_not_read():
    model, given = decoder(), inputs()
    dropped = given | {"has_z_img": torch.tensor([False, True])}
    other = dropped | {"z_img": dropped["z_img"] + torch.tensor([[5.0], [0.0]])}
    torch.testing.assert_close(model(**other), model(**dropped))
    assert not torch.allclose(model(**dropped)[0], model(**given)[0], atol=1e-4)


@torch.no_grad()
def test_the_null_vector_starts_as_the_mean_embedding():
    model, given = decoder(), inputs()
    mean = torch.randn(8)
    model.set_statistics(mean, torch.full((8,), 2.0))
    dropped = model(**given | {"has_z_img": torch.zeros(2, dtype=torch.bool)})
    torch.testing.assert_close(model(**given | {"z_img": mean.expand(2, 8)}), dropped)


@torch.no_grad()
def test_padding_behind_the_caption_is_not_read():
    model, given = decoder(), inputs()
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
    cut = given | {"text_states": given["text_states"][:, :3], "text_mask": mask[:, :3]}
    torch.testing.assert_close(model(**given | {"text_mask": mask}), model(**cut))


@torch.no_grad()
def test_a_text_encoder_of_its_own_takes_clips_place():
    own = OwnText(
        type="own", vocabulary="bytes", context_length=8, width=24, layers=1, head_width=8
    )
    model, given = decoder(text=own), inputs()
    made = []
    for first in (7, 8):
        tokens = torch.tensor([[257, first, 258, 0], [257, 9, 10, 258]])
        pooled, states, mask = model.text_encoder(tokens)
        text = {"z_txt": pooled, "text_states": states, "text_mask": mask}
        made.append(model(**given | text))
    assert not torch.allclose(made[0][0], made[1][0], atol=1e-4)
    torch.testing.assert_close(made[0][1], made[1][1])


@torch.no_grad()
def test_upsampler_reads_the_small_picture_at_any_size():
    unet = UNET.model_copy(update={"attention_levels": (), "mid_attention": False})
    model = Upsampler(UpsamplerConfig(low_px=4, high_px=16, unet=unet)).eval()
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    for side in (4, 16):
        x_t, low_res = torch.randn(2, 3, side, side), torch.randn(2, 3, side // 4, side // 4)
        out = model(x_t, torch.tensor([1, 2]), low_res)
        assert out.shape == x_t.shape
        assert not torch.allclose(model(x_t, torch.tensor([1, 2]), -low_res), out, atol=1e-4)


def test_sides_that_the_levels_do_not_divide_are_refused():
    with pytest.raises(ValidationError, match="image_px=10 is not a multiple of 4: patch_px=2"):
        DecoderConfig(
            clip=ClipShape(embed_dim=8, text_width=12),
            image_px=10,
            unet=UNET.model_copy(update={"patch_px": 2}),
            context_width=16,
        )
    with pytest.raises(ValidationError, match="high_px=9 is not a multiple of 2"):
        UpsamplerConfig(low_px=3, high_px=9, unet=UNET)
