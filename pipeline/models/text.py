"""A text encoder of a model's own: caption → tokens → states, trained together with the model.

Table 3 of the paper gives the decoder one of 24 layers, 2,048 wide, for 256 tokens. Dimension
names: ``batch``; ``token`` (caption positions); ``width``. Sources: Nichol et al. 2021 (GLIDE)
§4.1, whose last token's state joins the timestep embedding; Ramesh et al. 2022 (unCLIP) App. C.
Attention is causal (GLIDE's text does not say): padding stands last and needs no mask.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from pipeline.models.config import VOCABULARY_SIZE, OwnText
from pipeline.models.layers import CausalBlock, LayerNorm32, token_mask
from pipeline.models.tokenizer import tokenizer

BYTE_START, BYTE_END = 257, 258
"""Marks of the vocabulary of bytes: 0 is padding, 1 to 256 are the bytes 0 to 255."""
VOCABULARY_SIZES = {"bpe": VOCABULARY_SIZE, "bytes": BYTE_END + 1}


def own_tokens(texts: Sequence[str], config: OwnText) -> Int64[np.ndarray, " caption token"]:
    """Captions as a model's own encoder reads them: marks, at most its context, zeros behind.

    Args:
        texts: Captions; the empty one stands for no caption.
        config: Vocabulary and length; what is too long is cut, the end mark stays.
    """
    rows = np.zeros((len(texts), config.context_length), dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        if config.vocabulary == "bpe":
            ids = tokenizer().encode(text, config.context_length)
        else:
            room = config.context_length - 2
            ids = [BYTE_START, *(1 + byte for byte in text.encode()[:room]), BYTE_END]
        row[: len(ids)] = ids
    return rows


class OwnTextEncoder(nn.Module):
    """Token ids → states of every token; without layers, the embedded tokens themselves."""

    def __init__(self, config: OwnText) -> None:
        """A fresh encoder."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(VOCABULARY_SIZES[config.vocabulary], config.width)
        self.positions = nn.Parameter(torch.randn(config.context_length, config.width) * 0.01)
        self.blocks = nn.ModuleList(
            CausalBlock(config.width, config.head_width) for _ in range(config.layers)
        )
        self.norm_out = LayerNorm32(config.width) if config.layers else nn.Identity()
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(
        self, tokens: Int[Tensor, " batch token"]
    ) -> tuple[
        Float[Tensor, " batch width"],
        Float[Tensor, " batch kept width"],
        Bool[Tensor, " batch kept"],
    ]:
        """Encode captions.

        Args:
            tokens: Ids as ``own_tokens`` gives them.

        Returns:
            The state at the end mark, the states of all tokens, and which belong to the caption.
            On a CPU positions that no caption of the batch reaches are left out.
        """
        ends = tokens.argmax(dim=-1)
        if tokens.device.type == "cpu":
            tokens = tokens[:, : int(ends.max()) + 1]
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, None)
        states = self.norm_out(x)
        pooled = states[torch.arange(len(ends), device=ends.device), ends]
        return pooled, states, token_mask(tokens)
