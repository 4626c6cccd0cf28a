"""CLIP's tokenizer as the files of transformers' ``CLIPTokenizer``.

It pads with the end mark: Karlo's folders pad with "!", which turns every "!" of a prompt into
padding. What stands behind the first end mark is hidden from all models either way. Prompts are
not mended there (``ftfy``, HTML entities), so such prompts are read otherwise than by us.
"""

import json

from pipeline.models.tokenizer import tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_MARKS = {"<start_of_text>": START, "<end_of_text>": END}


def tokenizer_files(context_length: int) -> dict[str, bytes]:
    """Name → content of every file of the folder ``tokenizer``.

    Args:
        context_length: Tokens of a caption, marks included.
    """
    own = tokenizer()
    vocabulary = {_MARKS.get(symbol, symbol): number for symbol, number in own.vocabulary.items()}
    merges = ["#version: 0.2", *(" ".join(pair) for pair in own.merges)]
    marks = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **marks,
    }
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": ("\n".join(merges) + "\n").encode(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
        "special_tokens_map.json": json.dumps(marks, indent=2).encode(),
    }
