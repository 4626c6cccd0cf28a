import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.tokenizer import END, START, pad, tokenizer

CAPTIONS = [
    "",
    "a red circle left of a small blue square on a grey background",
    "  A   RED\tCircle\n ",
    "it's 3 o'clock: they'll, we've, I'm!",
    "caf\u00e9 na\u00efve \u00dcber stra\u00dfe",
    "cafe\u0301",
    "&amp;lt;b&amp;gt; &quot;x&quot;",
    "\u201csmart\u201d \u2018quotes\u2019 \u2026",
    "sch\u00c3\u00b6n mojibake",
    "\u65e5\u672c\u8a9e\u306e\u6587 \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 emoji",
    "\u0663\u0664 \u00bd 12345 a1b2",
    "<start_of_text> hi <end_of_text>",
    "\u0130stanbul \ufb01ne \u00ad soft",
    "word " * 100,
    "!!!???...",
    "\u00a0\u3000",
]


@pytest.fixture(scope="module")
def theirs():
    spec = importlib.util.find_spec("open_clip")
    path = Path(spec.origin).parent / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer_alone", path)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module.SimpleTokenizer()


@pytest.mark.parametrize("caption", CAPTIONS)
def test_ids_equal_open_clips(theirs, caption):
    assert pad([tokenizer().encode(caption)]).tolist() == theirs([caption]).tolist()


@settings(max_examples=150, deadline=None)
@given(caption=st.text(max_size=60))
def test_any_text_gives_open_clips_ids(theirs, caption):
    assert pad([tokenizer().encode(caption)]).tolist() == theirs([caption]).tolist()


def test_long_captions_keep_their_end_mark():
    ids = tokenizer().encode("circle " * 200)
    assert len(ids) == 77
    assert ids[0] == START
    assert ids[-1] == END


def test_the_empty_caption_is_start_and_end():
    assert tokenizer().encode("") == [START, END]


def test_padding_is_zero_behind_the_end_mark():
    rows = tokenizer()(["a red circle", ""])
    assert rows.shape == (2, 77)
    assert rows.dtype == np.int64
    assert not rows[0, 5:].any()
    assert not rows[1, 2:].any()


@pytest.mark.parametrize("text", ["", "A  red circle", "it's 3 o'clock", "schön 日本語", "a_b, c!"])
def test_ids_become_words_again(text):
    own = tokenizer()
    ids = own.encode(text)
    read = own.decode([*ids, 0, 0])
    assert read.replace(" ", "") == text.replace(" ", "").lower()
    assert own.encode(read) == ids
