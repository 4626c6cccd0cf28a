import pytest
import torch
from pydantic import ValidationError

from pipeline.models.config import OwnText
from pipeline.models.text import BYTE_END, BYTE_START, OwnTextEncoder, own_tokens
from pipeline.models.tokenizer import END, START, tokenizer


def own(**changes):
    values = {"width": 16, "layers": 2, "head_width": 8, "context_length": 12}
    return OwnText(type="own", **(values | changes))


def encoder(**changes):
    torch.manual_seed(0)
    return OwnTextEncoder(own(**changes)).eval()


def test_bytes_are_shifted_between_their_marks():
    rows = own_tokens(["aé", ""], own(vocabulary="bytes"))
    assert rows[0, :6].tolist() == [BYTE_START, 98, 0xC3 + 1, 0xA9 + 1, BYTE_END, 0]
    assert rows[1, :3].tolist() == [BYTE_START, BYTE_END, 0]


def test_byte_pairs_are_clips_own_beyond_its_length():
    text = "a small red circle left of a large blue square " * 12
    long = own_tokens([text], own(context_length=100))[0]
    assert (long > 0).all()
    assert long[:76].tolist() == tokenizer().encode(text)[:76]
    assert (long[0], long[-1]) == (START, END)


@pytest.mark.parametrize("vocabulary", ["bpe", "bytes"])
def test_long_captions_keep_their_end_mark(vocabulary):
    row = own_tokens(["circle " * 50], own(vocabulary=vocabulary))[0]
    assert row[-1] == row.max()
    assert (row > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("layers", [0, 2])
def test_padding_changes_nothing_and_the_end_mark_is_what_is_pooled(layers):
    model = encoder(layers=layers)
    texts = ["a red circle", "a small blue square on grey"]
    tokens = torch.from_numpy(own_tokens(texts, model.config))
    pooled, states, mask = model(tokens)
    alone, alone_states, _ = model(tokens[:1])
    torch.testing.assert_close(pooled[:1], alone)
    torch.testing.assert_close(states[:1, :5], alone_states)
    assert mask.sum(dim=1).tolist() == [5, 8]
    torch.testing.assert_close(pooled[0], states[0, 4])


@torch.no_grad()
def test_the_pooled_state_reads_the_whole_caption():
    model = encoder()
    pairs = torch.from_numpy(own_tokens(["a red circle", "a blue circle"], model.config))
    pooled, _, _ = model(pairs)
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-4)


def test_widths_divide_into_heads():
    with pytest.raises(ValidationError, match="width=20 is not a multiple of head_width=8"):
        own(width=20)
