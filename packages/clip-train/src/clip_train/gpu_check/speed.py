"""Checks of time and memory, each beside what it is measured against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from clip_models import CLIP, CLIPConfig, get_config
from clip_models.config import PatchReductionConfig, PoolingConfig, ViTConfig
from osf_supernet import Supernet, ratios
from osf_supernet.training import Classification, Sandwich
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from clip_train.cost.flops import pair_cost
from clip_train.gpu_check.figures import Figure
from clip_train.gpu_check.setting import Setting, has_library, random_pairs, small_models, small_vit
from clip_train.logs.utilization import known_peak_tflops
from clip_train.objectives.losses import contrastive_loss

BATCHES = {"ViT-B-32": 512, "ViT-B-16": 256, "ViT-L-14": 64}
SMALL = "ViT, class token"


def _config(setting: Setting, name: str) -> CLIPConfig:
    return small_models()[SMALL] if setting.is_small else get_config(name)


def _training_step(
    model: nn.Module, setting: Setting, images: Tensor, tokens: Tensor
) -> Callable[[], None]:
    """Forward, InfoNCE, backward, AdamW; the same for every library's two towers."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=setting.on_gpu)
    labels = torch.arange(len(images), device=setting.device)

    def step() -> None:
        optimizer.zero_grad()
        with setting.autocast():
            image_features, text_features, scale, *_ = model(images, tokens)
            logits = scale * image_features @ text_features.T
        logits = logits.float()
        torch.autograd.backward(cross_entropy(logits, labels) + cross_entropy(logits.T, labels))
        optimizer.step()

    return step


def _step_of(
    config: CLIPConfig, setting: Setting, batch: int, *, tokens: int | None = None
) -> Callable[[], None]:
    torch.manual_seed(0)
    model = CLIP(config).train().to(setting.device)
    images, captions = (x.to(setting.device) for x in random_pairs(config, batch))
    return _training_step(model, setting, images, captions[:, :tokens])


def check_steps(setting: Setting) -> Iterator[Figure]:
    """Training steps of named models in bfloat16: eager, compiled, and open_clip's."""
    for name, batch in ({SMALL: 4} if setting.is_small else BATCHES).items():
        config = _config(setting, name)
        torch.manual_seed(0)
        model = CLIP(config).train().to(setting.device)
        images, tokens = (x.to(setting.device) for x in random_pairs(config, batch))
        ours = _training_step(model, setting, images, tokens)
        theirs = _their_step(name, model, setting, images, tokens)
        times = setting.seconds(ours, *([theirs] if theirs else []))
        speed = batch / times[0]
        yield Figure(
            what=f"{name}, eager, batch {batch}",
            value=speed,
            unit="samples/s",
            peer=batch / times[1] if theirs else None,
            peer_name="open_clip, same weights and batch" if theirs else "",
            note="" if theirs else "open_clip is not installed or has no such model",
        )
        yield from _utilization(name, config, speed, setting)
        step = _training_step(_compile(model, setting), setting, images, tokens)
        (seconds,) = setting.seconds(step)
        yield Figure(
            what=f"{name}, compiled, batch {batch}",
            value=batch / seconds,
            unit="samples/s",
            peer=speed,
            peer_name="eager",
        )
        yield from _utilization(f"{name}, compiled", config, batch / seconds, setting)


def _compile(model: nn.Module, setting: Setting) -> nn.Module:
    """The model, compiled; on a CPU without generating code, which takes minutes there."""
    return torch.compile(model, backend="inductor" if setting.on_gpu else "aot_eager")  # type: ignore[return-value]


def _their_step(
    name: str, model: CLIP, setting: Setting, images: Tensor, tokens: Tensor
) -> Callable[[], None] | None:
    if setting.is_small or not has_library("open_clip"):
        return None
    import open_clip

    theirs = open_clip.create_model(name).train().to(setting.device)
    theirs.load_state_dict(model.state_dict())
    return _training_step(theirs, setting, images, tokens)


def _utilization(name: str, config: CLIPConfig, speed: float, setting: Setting) -> Iterator[Figure]:
    peak = known_peak_tflops("bf16", setting.device)
    if peak is None or not isinstance(config.vision.image_size, int):
        return
    cost = pair_cost(
        config, image_size=config.vision.image_size, caption_tokens=config.text.context_length
    )
    yield Figure(
        what=f"{name}: model FLOPs utilization",
        value=100 * speed * cost.training_flops / (peak * 1e12),
        unit="%",
        note=f"of {peak:g} TFLOP/s; whole contexts counted, though padding is skipped",
    )


def check_loss_memory(setting: Setting) -> Iterator[Figure]:
    """Memory and time of InfoNCE in tiles against all scores at once."""
    for batch in (128,) if setting.is_small else (16384, 32768, 65536):
        features = [torch.randn(batch, 512, device=setting.device) for _ in range(2)]

        def compute(tile: int | None) -> None:
            images, texts = (normalize(x).requires_grad_() for x in features)  # noqa: B023
            loss = contrastive_loss(images, texts, images.new_tensor(20.0), tile=tile)
            torch.autograd.backward(loss)

        tile = max(32, batch // 16)
        memory = [setting.peak_bytes(lambda tile=tile: compute(tile))]  # type: ignore[misc]
        (seconds,) = setting.seconds(lambda tile=tile: compute(tile))  # type: ignore[misc]
        whole: tuple[float | None, float | None] = None, None
        note = ""
        try:
            memory.append(setting.peak_bytes(lambda: compute(None)))
            whole = memory[1], setting.seconds(lambda: compute(None))[0]
        except torch.cuda.OutOfMemoryError:
            note = "all scores at once do not fit into memory"
        if memory[0] is not None:
            yield Figure(
                what=f"{batch} pairs in tiles: memory",
                value=memory[0] / 1e6,
                unit="MB",
                peer=None if whole[0] is None else whole[0] / 1e6,
                peer_name="all at once",
                note=note,
            )
        yield Figure(
            what=f"{batch} pairs in tiles: time",
            value=seconds,
            unit="s",
            peer=whole[1],
            peer_name="all at once",
            note=note,
        )


def check_transfer(setting: Setting) -> Iterator[Figure]:
    """Images sent to the device as bytes and normalized there, against floats."""
    shape = (8, 3, 32, 32) if setting.is_small else (512, 3, 224, 224)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    floats = pixels.float().div(255)
    if setting.on_gpu:
        pixels, floats = pixels.pin_memory(), floats.pin_memory()

    def as_bytes() -> Tensor:
        return pixels.to(setting.device, non_blocking=True).float().div_(255)

    times = setting.seconds(as_bytes, lambda: floats.to(setting.device, non_blocking=True))
    yield Figure(
        what=f"{shape[0]} images of {shape[-1]} pixels as uint8",
        value=1e3 * times[0],
        unit="ms",
        peer=1e3 * times[1],
        peer_name="as float32",
    )


def _compare_with_flops(
    setting: Setting, what: str, config: CLIPConfig, full: CLIPConfig, batch: int, tokens: int
) -> Figure:
    """Time of a step of `config` relative to that of `full`, beside the same ratio of FLOPs."""
    sides = [model.vision.image_size for model in (config, full)]
    lengths = [tokens, full.text.context_length]
    flops = [
        pair_cost(model, image_size=side, caption_tokens=length).training_flops  # type: ignore[arg-type]
        for model, side, length in zip((config, full), sides, lengths, strict=True)
    ]
    steps = [_step_of(config, setting, batch, tokens=tokens), _step_of(full, setting, batch)]
    seconds = setting.seconds(*steps)
    return Figure(
        what=what,
        value=seconds[0] / seconds[1],
        unit="of a full step's time",
        peer=flops[0] / flops[1],
        peer_name="of its FLOPs",
    )


def check_token_counts(setting: Setting) -> Iterator[Figure]:
    """CLIPA's steps with few image and text tokens."""
    full = _config(setting, "ViT-B-16")
    assert isinstance(full.vision, ViTConfig)
    batch = 4 if setting.is_small else 256
    longest = full.text.context_length
    for keep, tokens in ((0.5, longest // 2), (0.25, longest // 4)):
        reduction = PatchReductionConfig(kind="random", keep_ratio=keep)
        config = replace(full, vision=replace(full.vision, patch_reduction=reduction))
        what = f"{keep:.0%} of the patches, {tokens} of {longest} text tokens"
        yield _compare_with_flops(setting, what, config, full, batch, tokens)


def check_pooled_towers(setting: Setting) -> Iterator[Figure]:
    """Steps of a tower that pools its tokens, against its FLOPs."""
    full = _config(setting, "ViT-B-16")
    assert isinstance(full.vision, ViTConfig)
    batch, layer = (4, 1) if setting.is_small else (256, 4)
    for rate in (0.5, 0.25):
        pooling = PoolingConfig(
            name="dynamic", after_layer=layer, args={"kind": "top_k", "rate": rate}
        )
        config = replace(full, vision=replace(full.vision, pooling=pooling))
        what = f"{rate:.0%} of the tokens after layer {layer}"
        tokens = full.text.context_length
        yield _compare_with_flops(setting, what, config, full, batch, tokens)


def check_supernet(setting: Setting) -> Iterator[Figure]:
    """A supernet step of four subnets against the steps of their copies."""
    vision = small_vit() if setting.is_small else get_config("ViT-B-16").vision
    text = small_models()[SMALL].text
    torch.manual_seed(0)
    model = CLIP(CLIPConfig(embed_dim=32, vision=vision, text=text)).visual.to(setting.device)
    batch = 4 if setting.is_small else 128
    side = vision.image_size
    images = torch.randn(batch, 3, side, side, device=setting.device)  # type: ignore[arg-type]
    data = (images, torch.arange(batch, device=setting.device) % 32)
    net = Supernet(model, images[:1], {"mlp": ratios(0.25, 0.5, 0.75, 1), "depth": ratios(0.5, 1)})
    task = Classification(distill=0.0)
    sandwich = Sandwich(net, task, num_random=2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    model.train()

    def ours() -> None:
        optimizer.zero_grad()
        with setting.autocast():
            sandwich.backward(data, 0)
        optimizer.step()

    copies = [net.extract(config) for config in sandwich.configs(0)]

    def copying() -> None:
        for copy_ in copies:
            small = copy.deepcopy(copy_).train()
            own = torch.optim.AdamW(small.parameters(), 1e-4)
            with setting.autocast():
                loss = task(small, data).loss
            torch.autograd.backward(loss)
            own.step()

    times = setting.seconds(ours, copying)
    yield Figure(
        what="four subnets on shared weights, one step",
        value=1e3 * times[0],
        unit="ms",
        peer=1e3 * times[1],
        peer_name="each copied and stepped",
        note="weights are not copied back, which the other way would need too",
    )
