"""Karlo's layout: names as its files have them, written out, and tensors in its order."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from pipeline.errors import CheckpointError, ConfigError
from pipeline.interop import karlo
from pipeline.interop.pairs import meta_state, to_theirs
from pipeline.models.config import DecoderConfig, PriorConfig, UpsamplerConfig
from pipeline.models.layers import CausalSelfAttention
from pipeline.models.presets import build_decoder, build_prior, build_upsampler
from pipeline.models.scales import KARLO_DECODER, KARLO_PRIOR, KARLO_UPSAMPLER_64_256
from tests.exportable_stack import TASKS, network_of, randomised, with_model

UNET = {"channels": 8, "res_blocks": 1, "head_width": 4, "norm_groups": 4}
PRIOR = PriorConfig.model_validate({**TASKS["prior"]["model"], "padding": "last"})
DECODER = DecoderConfig.model_validate(
    {**TASKS["decoder"]["model"], "unet": {**UNET, "multipliers": [1, 2], "attention_levels": [1]}}
)
UPSAMPLER = UpsamplerConfig.model_validate(
    {
        "low_px": 8,
        "high_px": 16,
        "resize": "bicubic",
        "unet": {**UNET, "multipliers": [1, 2], "mid_attention": False, "scale_shift": False},
    }
)
RES_BLOCK = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
# Level 0 has one block and one that halves; level 1 one block, then two upwards, where the block
# that doubles stands behind the second one's attention; level 0 again two blocks.
DOWN_AND_UP = {
    "input_blocks.1.0": "plain",
    "input_blocks.2.0": "plain",
    "input_blocks.3.0": "wider",
    "output_blocks.0.0": "wider",
    "output_blocks.1.0": "wider",
    "output_blocks.2.0": "wider",
    "output_blocks.3.0": "wider",
    "middle_block.0": "plain",
}
ATTENTIONS = ("input_blocks.3.1", "middle_block.1", "output_blocks.0.1", "output_blocks.1.1")


def unet_names(prefix, more, attentions):
    blocks = {**DOWN_AND_UP, **more}
    modules = ["time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2"]
    modules += [f"{block}.{part}" for block in blocks for part in RES_BLOCK]
    modules += [f"{block}.skip_connection" for block, kind in blocks.items() if kind == "wider"]
    modules += [f"{a}.{p}" for a in attentions for p in ("norm", "qkv", "encoder_kv", "proj_out")]
    return {f"{prefix}.{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}


def state_of(network, table):
    own = {name: t for name, t in network.state_dict().items() if name not in karlo.WHITENING}
    return to_theirs(own, table)


def test_a_decoders_names():
    modules = ("clip_emb", "text_feat_proj", "clip_tok_proj", "text_seq_proj.0", "text_seq_proj.1")
    expected = {f"model.{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}
    more = {"output_blocks.1.2": "plain", "middle_block.2": "plain"}
    expected |= {"model.cf_param", *unet_names("model", more, ATTENTIONS)}
    found = state_of(build_decoder(DECODER), karlo.decoder_table(DECODER))
    assert set(found) == expected
    assert found["model.middle_block.1.qkv.weight"].shape == (48, 16, 1)
    assert found["model.middle_block.1.encoder_kv.weight"].shape == (32, 20, 1)


def test_an_upsamplers_names():
    # Without attention the block that doubles comes right behind its residual block.
    more = {"output_blocks.1.1": "plain", "middle_block.1": "plain"}
    found = to_theirs(
        build_upsampler(UPSAMPLER).state_dict(), karlo.unet_table(UPSAMPLER.unet, "first")
    )
    assert set(found) == unet_names("first", more, ())


def test_a_priors_names():
    modules = ["time_embed.0", "time_embed.2", "clip_img_proj", "text_emb_proj", "text_enc_proj"]
    modules += ["final_ln", "out_proj"]
    parts = ("ln_1", "ln_2", "attn.c_qkv", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    modules += [f"transformer.resblocks.{n}.{part}" for n in range(2) for part in parts]
    expected = {f"model.{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}
    expected |= {"model.prd_emb", "model.positional_embedding"}
    assert set(state_of(build_prior(PRIOR), karlo.prior_table(PRIOR))) == expected


def test_attention_reads_queries_keys_and_values_head_by_head():
    attention = randomised(CausalSelfAttention(8, 4))
    x = torch.randn(2, 5, 8)
    state = {f"blocks.0.attention.{name}": t for name, t in attention.state_dict().items()}
    theirs = to_theirs(state, karlo.prior_table(PRIOR.model_copy(update={"head_width": 4})))
    prefix = "model.transformer.resblocks.0.attn"
    projected = functional.linear(
        x, theirs[f"{prefix}.c_qkv.weight"], theirs[f"{prefix}.c_qkv.bias"]
    )
    # Their way to read it: heads first, then the three parts of each.
    q, k, v = projected.view(2, 5, 2, 12).chunk(3, dim=-1)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    read = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    joined = read.transpose(1, 2).flatten(2)
    expected = functional.linear(
        joined, theirs[f"{prefix}.c_proj.weight"], theirs[f"{prefix}.c_proj.bias"]
    )
    torch.testing.assert_close(attention(x, None), expected)


@pytest.mark.parametrize(
    ("config", "build", "table", "num_tensors"),
    [
        (KARLO_PRIOR, build_prior, karlo.prior_table, 258),
        (KARLO_DECODER, build_decoder, karlo.decoder_table, 595),
    ],
    ids=["prior", "decoder"],
)
def test_the_published_sizes_have_every_tensor(config, build, table, num_tensors):
    own = meta_state(lambda: build(config))
    if isinstance(config, DecoderConfig):
        own = {name: tensor for name, tensor in own.items() if name not in karlo.WHITENING}
    assert len(to_theirs(own, table(config))) == num_tensors
    sizes = meta_state(lambda: build_upsampler(KARLO_UPSAMPLER_64_256))
    assert len(to_theirs(sizes, karlo.unet_table(KARLO_UPSAMPLER_64_256.unet, "a"))) == 408


@pytest.fixture
def folder(tmp_path):
    """Files under their published names, as a training saved them."""
    prior = network_of(with_model("prior", padding="last")["prior"])
    theirs = to_theirs(prior.state_dict(), karlo.prior_table(PRIOR))
    statistics = tuple(theirs.pop(name) for name in karlo.STATISTICS)
    torch.save({"state_dict": theirs, "global_step": 3}, tmp_path / "prior-ckpt-step=03.ckpt")
    torch.save(statistics, tmp_path / "ViT-L-14_stats.th")
    decoder = randomised(build_decoder(DECODER))
    states = state_of(decoder, karlo.decoder_table(DECODER))
    torch.save({"state_dict": states}, tmp_path / "decoder-ckpt-step=03.ckpt")
    upsampler = randomised(build_upsampler(UPSAMPLER))
    state = upsampler.state_dict()
    both = {
        **to_theirs(state, karlo.unet_table(UPSAMPLER.unet, karlo.FIRST_STEPS)),
        **to_theirs(state, karlo.unet_table(UPSAMPLER.unet, karlo.LAST_STEP)),
    }
    torch.save({"state_dict": both}, tmp_path / "improved-sr-ckpt-step=1.2M.ckpt")
    return tmp_path, prior, decoder, upsampler


def test_files_under_their_published_names_become_our_models(folder):
    path, prior, decoder, upsampler = folder
    found = karlo.prior(*karlo.files(path, "prior"), PRIOR)
    assert found.task["diffusion"]["prediction"] == "x_start"
    enlarging = karlo.upsampler(*karlo.files(path, "upsampler_64_256"), UPSAMPLER)
    assert enlarging.left_out == ("model_last_step",)
    for network, state in ((prior, found.state), (upsampler, enlarging.state)):
        assert state.keys() == network.state_dict().keys()
        assert all(torch.equal(state[n], t) for n, t in network.state_dict().items())
    read = karlo.decoder(*karlo.files(path, "decoder"), DECODER)
    assert read.task["diffusion"] == {"schedule": "cosine", "num_steps": 1000, "prediction": "eps"}
    assert read.state.keys() == decoder.state_dict().keys()
    assert (read.state["z_mean"] == 0).all()
    assert (read.state["z_std"] == 1).all()


def test_other_sizes_are_refused_key_by_key(folder):
    path = folder[0]
    with pytest.raises(CheckpointError) as caught:
        karlo.read(path, "decoder")
    said = str(caught.value)
    assert "decoder-ckpt-step=03.ckpt does not fit the model: missing: model.input_blocks." in said
    assert re.search(r"of another shape: model.cf_param \(12,\) for \(768,\)", said)


def test_half_precision_becomes_single(folder):
    path, _, decoder, _ = folder
    state = state_of(decoder, karlo.decoder_table(DECODER))
    (target,) = karlo.files(path, "decoder")
    torch.save({"state_dict": {n: t.half() for n, t in state.items()}}, target)
    found = karlo.decoder(target, DECODER).state
    assert {t.dtype for t in found.values()} == {torch.float32}


class Code:
    def __reduce__(self):
        return (Path.touch, (Path("/nowhere/it-ran"),))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {"a": torch.zeros(1)}, "hook": Code()}, "nothing else is opened"),
        ({"a": 1}, "holds no tensors by name"),
        ([torch.zeros(1)], "holds no tensors by name"),
    ],
)
def test_files_that_hold_more_than_tensors_are_not_opened(tmp_path, content, words):
    path = tmp_path / "decoder-ckpt.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=words):
        karlo.decoder(path, DECODER)


def test_damaged_files_and_missing_ones_are_named(folder):
    path = folder[0]
    (path / "decoder-ckpt-step=03.ckpt").write_bytes(b"not a file of tensors")
    with pytest.raises(CheckpointError, match="no file of tensors alone"):
        karlo.read(path, "decoder")
    (path / "ViT-L-14_stats.th").unlink()
    with pytest.raises(ConfigError, match=r"holds 0 files ViT-L-14_stats\*"):
        karlo.files(path, "prior")
    with pytest.raises(ConfigError, match=r"Karlo published .*, not 'upsampler_256_1024'"):
        karlo.files(path, "upsampler_256_1024")
    torch.save(torch.zeros(3), path / "ViT-L-14_stats.th")
    with pytest.raises(CheckpointError, match="no pair of tensors"):
        karlo.prior(*karlo.files(path, "prior"), PRIOR)
