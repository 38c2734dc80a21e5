"""The text encoder: words -> a vector that is added to the condition of every frame.

It reads UTF-8 bytes, so that it needs no vocabulary and knows every language's letters. It is trained with the network.

Shapes: B texts, L bytes, E width of the encoder, D width of the network.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dreamrun.model.attention import attention

WIDTH, NUM_BLOCKS, NUM_HEADS = 128, 2, 4  # E, and the encoder's blocks and heads
MAX_BYTES = 128  # of a text; the rest of a longer one is not read


def encode_bytes(texts: Sequence[str]) -> Tensor:
    """Texts -> uint8 (B, L), padded with zeros; a text of no words is a row of zeros. L is at least 1."""
    # A character that does not fit whole is left out.
    rows = [text.encode()[:MAX_BYTES].decode(errors="ignore").encode() for text in texts]
    encoded = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.uint8)
    for row, content in zip(encoded, rows, strict=True):
        row[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else 0
    return encoded


class TextBlock(nn.Module):
    """Attention among the bytes of a text, then an MLP, both before a LayerNorm."""

    def __init__(self):
        super().__init__()
        self.to_qkv, self.to_out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.norm_a, self.norm_m = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU("tanh"), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, L, E) and which bytes are read, bool (B, L) -> (B, L, E)."""
        q, k, v = rearrange(self.to_qkv(self.norm_a(x)), "b l (qkv n k) -> qkv b n l k", qkv=3, n=NUM_HEADS)
        x = x + self.to_out(rearrange(attention(q, k, v, mask[:, None, None]), "b n l k -> b l (n k)"))
        return x + self.mlp(self.norm_m(x))


class TextEncoder(nn.Module):
    """Bytes of texts -> vectors for the condition; a text of no words gives zeros, as hidden words do in training."""

    def __init__(self, dim: int):
        super().__init__()
        self.byte_embedding = nn.Embedding(256, WIDTH)
        self.position_embedding = nn.Parameter(torch.empty(MAX_BYTES, WIDTH))
        self.blocks = nn.ModuleList(TextBlock() for _ in range(NUM_BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.to_condition = nn.Linear(WIDTH, dim)

    def reset_parameters(self) -> None:
        """What Xavier initialisation of the linear maps leaves to do."""
        nn.init.normal_(self.byte_embedding.weight, std=0.5)
        nn.init.normal_(self.position_embedding, std=0.5)

    def forward(self, text: Tensor) -> Tensor:
        """uint8 (B, L), from `encode_bytes` -> (B, D)."""
        is_read = text > 0
        has_words = is_read.any(1, keepdim=True)
        mask = is_read | ~has_words  # attention to nothing at all would give NaN
        x = self.byte_embedding(text.long()) + self.position_embedding[: text.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        weights = is_read[..., None].to(x.dtype)
        mean = (self.norm(x) * weights).sum(1) / weights.sum(1).clamp(min=1)
        return self.to_condition(F.gelu(mean, approximate="tanh")) * has_words.to(x.dtype)
