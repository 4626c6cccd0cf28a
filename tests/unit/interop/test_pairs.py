import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CheckpointError
from pipeline.interop import karlo
from pipeline.interop.diffusers import names
from pipeline.interop.pairs import (
    AS_CONVOLUTION,
    AS_ROW,
    TRANSPOSED,
    at,
    in_turns,
    to_ours,
    to_theirs,
)
from pipeline.models.config import ClipConfig, DecoderConfig, PriorConfig, UNetConfig
from pipeline.models.presets import build_clip, build_decoder, build_prior
from pipeline.models.unet import UNet
from tests.exportable_stack import CLIP, TASKS, UNET

sizes = st.integers(1, 4)


@given(parts=sizes, num=sizes, run=sizes)
def test_rows_in_turns_go_back_where_they_came_from(parts, num, run):
    ours = torch.arange(parts * num * run * 2).reshape(-1, 2)
    change = in_turns(parts, run)
    theirs = change.there(ours)
    assert torch.equal(change.back(theirs), ours)
    # Part p's row r of turn n is ours at (p, n, r) and theirs at (n, p, r).
    for part, turn, row in ((0, 0, 0), (parts - 1, num - 1, run - 1), (parts - 1, 0, run - 1)):
        place = (turn * parts + part) * run + row
        assert torch.equal(theirs[place], ours[(part * num + turn) * run + row])


@pytest.mark.parametrize("change", [TRANSPOSED, AS_ROW, in_turns(2, 1).then(AS_CONVOLUTION)])
def test_every_change_can_be_undone(change):
    ours = torch.randn(4, 6)
    assert torch.equal(change.back(change.there(ours)), ours)


def test_the_heads_of_a_fused_projection_stand_in_turns():
    # Two heads of one row: queries 0 and 1, keys 2 and 3, values 4 and 5.
    assert in_turns(3, 1).there(torch.arange(6)).tolist() == [0, 2, 4, 1, 3, 5]


def test_missing_unknown_and_differently_shaped_weights_are_named():
    table = {"one": at("a", "b"), "two": at("c")}
    own = {"one.weight": torch.zeros(4, 3), "two.weight": torch.zeros(2, 2)}
    theirs = {"a.weight": torch.zeros(2, 3), "c.weight": torch.zeros(2, 5), "d": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        to_ours(theirs, own, table, "somewhere")
    said = str(caught.value)
    assert said.startswith("somewhere does not fit the model")
    for words in ("missing: b.weight", "unknown: d", r"c.weight (2, 5) for (2, 2)"):
        assert words in said


def networks():
    decoder = DecoderConfig.model_validate(TASKS["decoder"]["model"])
    prior = PriorConfig.model_validate(TASKS["prior"]["model"])
    clip = ClipConfig.model_validate(CLIP)
    plain = UNetConfig.model_validate({**UNET, "attention_levels": [2], "mid_attention": False})
    yield build_prior(prior), names.prior_table(prior)
    yield build_prior(prior), karlo.prior_table(prior)
    yield build_decoder(decoder), names.decoder_table(decoder)
    yield build_decoder(decoder), karlo.decoder_table(decoder)
    yield build_clip(clip), names.clip_table(clip)
    yield torch.nn.ModuleDict({"unet": UNet(6, 3, plain)}), names.unet_table(plain, "folder")
    yield torch.nn.ModuleDict({"unet": UNet(6, 3, plain)}), karlo.unet_table(plain, "model")


@pytest.mark.parametrize("index", range(7))
def test_a_way_there_and_back_gives_the_same_bits(index):
    network, table = list(networks())[index]
    folded = {"z_mean", "z_std", "logit_scale"} - set(table)
    state = {name: t for name, t in network.state_dict().items() if name not in folded}
    theirs = to_theirs(state, table)
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in state.values())
    back = to_ours(theirs, state, table, "there")
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
