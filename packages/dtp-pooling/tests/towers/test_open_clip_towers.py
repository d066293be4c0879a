"""Pooling put between the blocks of open_clip's own towers (random weights, no download)."""

from __future__ import annotations

import pytest
import torch
from dtp_pooling import token_pooling
from open_clip import CustomTextCLIP
from torch import Tensor, nn

WIDTH = 64
VISION = {"layers": 4, "width": WIDTH, "head_width": 16, "patch_size": 8, "image_size": 32}
TEXT = {"context_length": 12, "vocab_size": 50, "width": WIDTH, "heads": 4, "layers": 3}


class Pool(nn.Module):
    """A residual block's place in the list, taken by pooling; remembers what it gave."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling, self.out = pooling, None

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        apart = torch.zeros(x.shape[:2], dtype=torch.bool)
        apart[:, 0] = True
        self.out = self.pooling(x, keep_apart=apart)
        return self.out.tokens


def image_tower() -> nn.Module:
    torch.manual_seed(0)
    return CustomTextCLIP(32, VISION, TEXT).visual.eval()


def pooled(rate: float, layer: int = 2, **settings: object) -> tuple[nn.Module, Pool]:
    tower = image_tower()
    pool = Pool(token_pooling(WIDTH, rate=rate, **settings).eval())
    blocks = list(tower.transformer.resblocks)
    tower.transformer.resblocks = nn.ModuleList([*blocks[:layer], pool, *blocks[layer:]])
    return tower, pool


@pytest.mark.parametrize("order", ["raster", "serpentine", "hilbert"])
@pytest.mark.parametrize("kind", ["top_k", "fixed", "random", "dissimilarity"])
def test_rate_one_reproduces_the_features_of_the_unpooled_image_tower(kind, order):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = image_tower()(images)
        got = pooled(1.0, kind=kind, order=order)[0](images)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    assert want.abs().max() > 0.1


def test_a_quarter_of_the_patches_gives_other_features_from_fewer_tokens():
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = image_tower()(images)
        tower, pool = pooled(0.25, kind="dissimilarity")
        got = tower(images)
    assert pool.out.tokens.shape == (2, 5, WIDTH)
    assert got.shape == want.shape
    assert (got - want).abs().max() > 1e-3


def test_training_the_pooled_tower_moves_the_scores():
    tower, pool = pooled(0.25, kind="top_k")
    tower.train()
    tower(torch.randn(2, 3, 32, 32)).pow(2).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in pool.pooling.parameters())


def test_rate_one_reproduces_the_features_of_the_unpooled_text_tower():
    torch.manual_seed(0)
    tower = CustomTextCLIP(32, VISION, TEXT).text.eval()
    lengths = torch.tensor([12, 5])
    text = torch.randint(1, 48, (2, 12))
    text[torch.arange(2), lengths - 1] = 49  # the end token has the highest id
    text[torch.arange(12) >= lengths[:, None]] = 0
    with torch.no_grad():
        want = tower(text)
        x = tower.token_embedding(text) + tower.positional_embedding
        mask = torch.arange(12) < lengths[:, None]
        causal = tower.attn_mask
        for block in tower.transformer.resblocks[:1]:
            x = block(x, attn_mask=causal)
        pooling = token_pooling(WIDTH, kind="fixed", rate=1.0)
        out = pooling(x, mask, text == 49, causal=True)
        x = out.tokens
        for block in tower.transformer.resblocks[1:]:
            x = block(x, attn_mask=causal[: x.shape[1], : x.shape[1]])
        end = out.segment_of[torch.arange(2), lengths - 1]
        got = tower.ln_final(x)[torch.arange(2), end] @ tower.text_projection
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
