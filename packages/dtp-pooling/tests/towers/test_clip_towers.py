"""Pooling as clip-models' towers use it, against open_clip with the same weights (no download)."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import open_clip
import pytest
import torch
from clip_eval.models.directory import load_for_evaluation
from clip_models import CLIP, get_config, load_model, save_model
from clip_models.config import PoolingConfig, PreprocessConfig, from_dict
from clip_models.converters import from_open_clip
from clip_models.model.transformer import Transformer
from clip_models.model.vision_transformer import VisionTransformer
from clip_tokenizer import get_tokenizer
from osf_supernet import Supernet, sizes
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 4, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 12, "vocab_size": 50, "width": 64, "heads": 4, "layers": 3},
}
CAUSAL = ["gumbel", "fixed", "random"]


def pooling(after: int, **args: object) -> PoolingConfig:
    return PoolingConfig(name="dynamic", after_layer=after, args=args)


def build(
    vision: PoolingConfig | None = None, text: PoolingConfig | None = None, values: dict = SMALL
) -> CLIP:
    config = from_open_clip(values)
    torch.manual_seed(0)
    return CLIP(
        dataclasses.replace(
            config,
            vision=dataclasses.replace(config.vision, pooling=vision),
            text=dataclasses.replace(config.text, pooling=text),
        )
    ).eval()


def peer(values: dict = SMALL) -> open_clip.CLIP:
    torch.manual_seed(1)
    model = open_clip.CLIP(values["embed_dim"], values["vision_cfg"], values["text_cfg"])
    return model.eval()


def with_weights_of(source: torch.nn.Module, model: CLIP) -> CLIP:
    """The pooled model with a pretrained one's weights; only the pooling's own are new."""
    missing, unexpected = model.load_state_dict(source.state_dict(), strict=False)
    assert all("pooling." in name for name in missing)
    assert not [name for name in unexpected if name != "attn_mask"]
    return model


def images(batch: int = 3, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2))


def captions(*lengths: int, context: int = 12, vocabulary: int = 50) -> Tensor:
    """(B, T) tokens with the end token, of the highest id, last; then zeros."""
    tokens = torch.zeros(len(lengths), context, dtype=torch.int64)
    generator = torch.Generator().manual_seed(3)
    for row, length in enumerate(lengths):
        tokens[row, : length - 1] = torch.randint(
            1, vocabulary - 1, (length - 1,), generator=generator
        )
        tokens[row, length - 1] = vocabulary - 1
    return tokens


def sharpened(model: CLIP) -> CLIP:
    """Scores far from a tie, so that learned boundaries are not uniform."""
    for name, weight in model.named_parameters():
        if "scores.out.weight" in name:
            torch.nn.init.normal_(weight, std=5.0)
    return model


@torch.no_grad()
def assert_features_are(model: CLIP, want: open_clip.CLIP, tokens: Tensor, image: Tensor) -> None:
    for encode, batch in (("encode_image", image), ("encode_text", tokens)):
        expected = getattr(want, encode)(batch)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(getattr(model, encode)(batch), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("after", [0, 2, 3])
@pytest.mark.parametrize("order", ["raster", "serpentine", "hilbert"])
@pytest.mark.parametrize("kind", ["top_k", "fixed", "random", "dissimilarity"])
def test_rate_one_gives_the_features_of_open_clip(kind, order, after):
    vision = pooling(after, kind=kind, order=order, rate=1.0)
    text = pooling(after, kind="fixed" if kind in ("top_k", "dissimilarity") else kind, rate=1.0)
    model = with_weights_of(peer(), build(vision, text))
    assert_features_are(model, peer(), captions(12, 5, 2), images())


@pytest.mark.slow
def test_rate_one_gives_the_features_of_open_clip_at_full_size():
    values = open_clip.get_model_config("ViT-B-16")
    vision = pooling(4, kind="top_k", order="hilbert", rate=1.0)
    model = build(vision, pooling(4, kind="random", rate=1.0), values)
    model = with_weights_of(peer(values), model)
    tokens = captions(77, 20, context=77, vocabulary=49408)
    assert_features_are(model, peer(values), tokens, images(2, 224))


@pytest.mark.parametrize("kind", ["top_k", "gumbel", "fixed", "random", "dissimilarity"])
def test_pretrained_weights_keep_their_positions(kind):
    settings = {"kind": kind, "rate": 0.25}
    model = with_weights_of(peer(), build(pooling(2, **settings)))
    assert torch.equal(model.visual.positional_embedding, peer().visual.positional_embedding)
    source, tokens = peer(), []
    for tower in (model.visual, source.visual):
        tower.transformer.resblocks[1].register_forward_hook(lambda *call: tokens.append(call[2]))
    pooled: list[Tensor] = []
    model.visual.transformer.resblocks[2].register_forward_pre_hook(
        lambda _, inputs: pooled.append(inputs[0])
    )
    with torch.no_grad():
        model.encode_image(images())
        source.encode_image(images())
    torch.testing.assert_close(tokens[0], tokens[1], rtol=0, atol=1e-5)  # before pooling
    assert torch.equal(pooled[0][:, 0], tokens[0][:, 0])  # the class token, apart
    if kind != "gumbel":
        assert pooled[0].shape == (3, 5, 64)


def two(first: PoolingConfig, second: PoolingConfig) -> PoolingConfig:
    return dataclasses.replace(first, then=second)


def test_two_stages_at_rate_one_give_the_features_of_open_clip():
    stage = {"kind": "random", "rate": 1.0, "proportional": True}
    both = two(pooling(1, **stage), pooling(2, **stage))
    assert_features_are(
        with_weights_of(peer(), build(both, both)), peer(), captions(12, 5, 2), images()
    )


def test_two_stages_halve_the_tokens_twice():
    vision = two(
        pooling(1, kind="top_k", rate=0.5, order="hilbert", proportional=True),
        pooling(3, kind="top_k", rate=0.5, proportional=True),
    )
    text = two(pooling(1, kind="gumbel", rate=0.5), pooling(2, kind="fixed", rate=0.5))
    model = sharpened(build(vision, text)).train()
    out = model(images(), captions(12, 9, 7), generator=torch.arange(3))
    assert out.records["vision.pooling"]["counts"].shape == (3, 9)
    assert out.records["vision.pooling2"]["counts"].shape == (3, 5)
    assert set(out.losses) == set(out.records)
    logits = out.logit_scale * out.image_features @ out.text_features.T
    torch.nn.functional.cross_entropy(logits, torch.arange(3)).backward()
    scores = [p for name, p in model.named_parameters() if "pooling." in name]
    assert len(scores) == 12  # three predictors
    assert all(p.grad.abs().max() > 0 for p in scores)


@pytest.mark.parametrize("first", [False, True])
def test_proportional_attention_counts_the_tokens_of_the_tower(monkeypatch, first):
    stage = {"kind": "fixed", "rate": 0.5}
    stages = two(pooling(1, proportional=first, **stage), pooling(3, proportional=True, **stage))
    layouts = []
    run = Transformer.forward

    def forward(self, x, layout, **places):
        layouts.append(layout)
        return run(self, x, layout, **places)

    monkeypatch.setattr(Transformer, "forward", forward)
    build(stages).encode_image(images())
    assert (layouts[1].key_bias is not None) == first
    counts = layouts[2].key_bias.exp()  # the class token, and 16 patches halved twice
    torch.testing.assert_close(counts, torch.tensor([[1.0, 4, 4, 4, 4]] * 3))


@pytest.mark.parametrize("kind", ["fixed", "random"])
def test_a_second_stage_leaks_nothing_and_drops_no_row(kind):
    stage = {"kind": kind, "rate": 0.6}
    model = build(text=two(pooling(1, **stage), pooling(2, **stage)))
    tokens = captions(12, 7, 2)
    together = model.encode_text(tokens)
    for row in range(3):
        alone = model.encode_text(tokens[row : row + 1])
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=2e-6)
    assert torch.equal(model.encode_text(tokens), together)


@pytest.mark.parametrize("size", [32, 48])
def test_images_of_other_sizes_are_pooled_too(size):
    model = build(pooling(1, kind="top_k", order="hilbert", rate=0.5))
    out = model.run_image_tower(images(2, size))
    assert out.features.shape == (2, 32)
    patches = (size // 8) ** 2
    assert out.records["pooling"]["counts"].shape == (2, 1 + patches // 2)


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_end_token_is_a_segment_of_its_own_and_padding_takes_no_part(kind):
    model = sharpened(build(text=pooling(1, kind=kind, rate=0.4, evaluation="pattern")))
    tokens = captions(12, 7, 2)
    out = model.run_text_tower(tokens)
    counts = out.records["pooling"]["counts"]
    assert counts.sum(1).tolist() == [12, 7, 2]
    for row in counts.tolist():
        assert [size for size in row if size][-1] == 1
    beyond = tokens.clone()
    beyond[1, 7:] = 17
    assert torch.equal(model.encode_text(beyond), model.encode_text(tokens))


@pytest.mark.parametrize("scores", ["mlp", "cosine"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_no_leak_in_the_text_tower(kind, scores):
    settings = {"kind": kind, "scores": scores, "rate": 0.4, "evaluation": "pattern"}
    model = sharpened(build(text=pooling(1, **settings)))
    embedded: list[Tensor] = []
    model.token_embedding.register_forward_hook(lambda *call: embedded.append(call[2]))
    segments: list[Tensor] = []
    model.transformer.resblocks[1].register_forward_hook(lambda *call: segments.append(call[2]))
    tokens = captions(12, 12, 12)
    counts = model.run_text_tower(tokens).records["pooling"]["counts"]
    assert len({size for size in counts.flatten().tolist() if size}) > 1
    checked = 0
    for change_from in range(2, 11):
        changed = tokens.clone()
        changed[:, change_from:11] = changed[:, change_from:11].flip(1) % 47 + 1
        model.run_text_tower(changed)
        for row, parts in enumerate(counts.tolist()):
            past = sum(1 for end in torch.tensor(parts).cumsum(0).tolist() if end <= change_from)
            past = min(past, segments[0].shape[1])
            want, got = segments[0][row, :past], segments[-1][row, :past]
            torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
            checked += past
            if past:
                (gradient,) = torch.autograd.grad(want.sum(), embedded[0], retain_graph=True)
                assert gradient[row, change_from:].abs().max() == 0
    assert checked > 30


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", CAUSAL)
def test_a_row_does_not_depend_on_its_batch(kind, training):
    both = pooling(1, kind=kind, rate=0.4)
    model = sharpened(build(both, both)).train(training)
    tokens, image, keys = captions(12, 7, 2), images(), torch.tensor([5, -6, 7])
    together = [
        getattr(model, encode)(batch, generator=keys)
        for encode, batch in (("encode_image", image), ("encode_text", tokens))
    ]
    for row in range(3):
        one = slice(row, row + 1)
        alone = [
            getattr(model, encode)(batch[one], generator=keys[one])
            for encode, batch in (("encode_image", image), ("encode_text", tokens))
        ]
        for got, want in zip(alone, together, strict=True):
            torch.testing.assert_close(got, want[one], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["top_k", "gumbel", "fixed", "random", "dissimilarity"])
def test_evaluation_twice_is_bit_equal(kind):
    model = build(pooling(1, kind=kind, rate=0.25))
    assert torch.equal(model.encode_image(images()), model.encode_image(images()))


@pytest.mark.parametrize("scores", ["mlp", "cosine"])
def test_the_contrastive_gradient_reaches_the_predictors(scores):
    vision = pooling(1, kind="top_k", scores=scores, rate=0.25)
    text = pooling(1, kind="gumbel", scores=scores, rate=0.5, weight=0.0)  # the task's alone
    model = sharpened(build(vision, text)).train()
    out = model(images(), captions(12, 9, 7), generator=torch.arange(3))
    assert set(out.losses) == {"vision.pooling", "text.pooling"}
    logits = out.logit_scale * out.image_features @ out.text_features.T
    torch.nn.functional.cross_entropy(logits, torch.arange(3)).backward()
    named = [(name, p) for name, p in model.named_parameters() if "pooling." in name]
    assert {name.split(".scores")[0] for name, _ in named} == {"visual.pooling.0", "pooling.0"}
    assert all(p.grad.abs().max() > 0 for _, p in named)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_nan_at_extreme_logits_in_half_precision(dtype):
    model = build(pooling(1, kind="top_k", rate=0.25), pooling(1, kind="gumbel", rate=0.5))
    for name, weight in model.named_parameters():
        if "scores.out" in name:
            torch.nn.init.constant_(weight, 80.0)
    model = model.to(dtype).train()
    out = model(images().to(dtype), captions(12, 9, 7), generator=torch.arange(3))
    loss = (out.image_features @ out.text_features.T).float().diag().sum()
    (loss + sum(out.losses.values())).backward()
    assert out.image_features.isfinite().all()
    assert out.text_features.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("compare", ["tokens", "keys"])
@pytest.mark.parametrize("proportional", [False, True])
def test_the_training_free_mode_takes_a_checkpoint_as_it_is(compare, proportional):
    settings = {"kind": "dissimilarity", "compare": compare, "proportional": proportional}
    model = build(pooling(2, rate=0.25, **settings))
    state = {k: v for k, v in peer().state_dict().items() if k != "attn_mask"}
    model.load_state_dict(state)  # strictly: it has no weights of its own
    with torch.no_grad():
        features, whole = model.encode_image(images()), peer().encode_image(images())
    cosine = torch.nn.functional.cosine_similarity(features, whole)
    assert (cosine > 0.5).all()
    assert not torch.allclose(features, whole, atol=1e-3)


def test_a_pooled_checkpoint_is_read_by_the_evaluation(tmp_path: Path):
    values = {
        **SMALL,
        "text_cfg": {**SMALL["text_cfg"], "context_length": 16, "vocab_size": 49408},
    }
    vision = pooling(1, kind="top_k", rate=0.25, order="hilbert", grid=[4, 4])
    model = sharpened(build(vision, pooling(1, kind="gumbel", rate=0.5), values))
    save_model(tmp_path, model, PreprocessConfig())
    get_tokenizer("ViT-B-32", context_length=16).save(tmp_path)
    again, _ = load_model(tmp_path)
    assert again.config == model.config
    loaded = load_for_evaluation(tmp_path)
    tokens = loaded.tokenizer(["a photo of a cat", "two dogs"])
    with torch.no_grad():
        for other in (again, loaded.model):
            assert torch.equal(other.encode_image(images()), model.encode_image(images()))
            assert torch.equal(other.encode_text(tokens), model.encode_text(tokens))


@pytest.mark.parametrize("kind", ["top_k", "dissimilarity", "fixed"])
def test_flops_on_the_meta_device_are_those_of_a_run(kind):
    """What a training run costs is counted there, before any weight exists."""
    stage = pooling(1, kind=kind, rate=0.25, order="hilbert", proportional=True)
    vision = two(stage, pooling(3, kind="fixed", rate=0.5))
    counted = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = CLIP(dataclasses.replace(build(vision).config)).train()
            unfused = sdpa_kernel(SDPBackend.MATH)  # the counter does not know CPU's fused kernel
            with unfused, FlopCounterMode(display=False) as counter:
                model.encode_image(torch.randn(2, 3, 32, 32)).sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] > 0


@pytest.mark.slow
def test_osf_supernet_prunes_a_pooled_tower():
    model = sharpened(build(pooling(1, kind="top_k", rate=0.5, max_segments=9))).visual
    net = Supernet(model, images(2), space={"mlp": sizes(64), "heads": sizes(2)})
    net.reorder("magnitude")
    small = net.extract(net.smallest)
    assert small.osf_record["certificate"]["max_error"] < 1e-4
    assert {block.mlp.c_fc.out_features for block in small.transformer.resblocks} == {64}
    assert {block.attn.num_heads for block in small.transformer.resblocks} == {2}
    assert small.run(images(2)).records["pooling"]["counts"].shape == (2, 9)


def test_the_configuration_in_the_readme_builds_a_pooled_tower():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", readme, re.S)
    pooled = from_dict(PoolingConfig, tomllib.loads(block)["model"]["vision"]["pooling"])
    config = dataclasses.replace(get_config("ViT-B-16").vision, width=64, num_heads=1)
    with torch.no_grad():
        tower = VisionTransformer(dataclasses.replace(config, pooling=pooled), 8).eval()
        records = tower.run(images(1, 224)).records
    assert [records[name]["counts"].shape[1] for name in records] == [1 + 98, 1 + 49]
