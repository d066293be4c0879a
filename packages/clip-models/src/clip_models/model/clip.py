"""The CLIP model: two towers and one embedding space.

B batch, T text positions, D text width, E embedding width.

The text tower's parameters live on the model itself (`transformer`, `token_embedding`, …), as in
OpenAI's CLIP and open_clip, so that their checkpoints load with no renaming.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.towers import ModifiedResNetConfig, ViTConfig, WhitenedCNNConfig
from clip_models.converters import open_clip, openai
from clip_models.model.compact_resnet import CompactResNet
from clip_models.model.layouts import Packed, Padded
from clip_models.model.modified_resnet import ModifiedResNet
from clip_models.model.outputs import CLIPOutput, TowerOutput
from clip_models.model.pooled_layers import PooledLayers
from clip_models.model.transformer import Transformer
from clip_models.model.vision_transformer import VisionTransformer
from clip_models.model.whitened_cnn import WhitenedCNN
from clip_models.native_images import NativeImages
from clip_models.pooling.randomness import Randomness

ACTIVATIONS = "clip_models.activations"
"""Key of the activations of both towers in the metadata of a state dict."""


class CLIP(nn.Module):
    """Contrastive language–image model (Radford et al. 2021)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.visual: nn.Module
        if isinstance(config.vision, ViTConfig):
            self.visual = VisionTransformer(config.vision, config.embed_dim)
        elif isinstance(config.vision, ModifiedResNetConfig):
            self.visual = ModifiedResNet(config.vision, config.embed_dim)
        elif isinstance(config.vision, WhitenedCNNConfig):
            self.visual = WhitenedCNN(config.vision, config.embed_dim)
        else:
            self.visual = CompactResNet(config.vision, config.embed_dim)
        self._add_text_tower()
        self.logit_scale = nn.Parameter(torch.tensor(config.init_logit_scale))
        bias = config.init_logit_bias
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))
        self.register_load_state_dict_pre_hook(_rename_foreign_keys)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_note_activations)  # type: ignore[no-untyped-call]

    def encode_image(
        self,
        images: Tensor | NativeImages,
        *,
        normalize: bool = False,
        generator: Randomness = None,
    ) -> Tensor:
        """Features (B, E) of normalized images (B, 3, H, W) of any size that the tower takes.

        A vision transformer takes images of their own shape too.
        """
        features = self.run_image_tower(images, generator=generator).features
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(
        self, tokens: Tensor, *, normalize: bool = False, generator: Randomness = None
    ) -> Tensor:
        """Features (B, E) of token ids (B, T)."""
        features = self.run_text_tower(tokens, generator=generator).features
        return F.normalize(features, dim=-1) if normalize else features

    def forward(
        self, images: Tensor | NativeImages, tokens: Tensor, *, generator: Randomness = None
    ) -> CLIPOutput:
        """Normalized features of both towers with the scale (and bias) of their logits.

        Args:
            images: (B, 3, H, W), or images of their own shape; normalized.
            tokens: (B, T) ids; without row keys their number may differ from that of the images.
            generator: Randomness of training: None (torch's global generator), a generator, or one
                int64 key for each row, which makes a row's randomness independent of its batch.
        """
        image = self.run_image_tower(images, generator=generator)
        text = self.run_text_tower(tokens, generator=generator)
        named = (("vision", image), ("text", text))
        return CLIPOutput(
            F.normalize(image.features, dim=-1),
            F.normalize(text.features, dim=-1),
            self.logit_scale.exp(),
            self.logit_bias,
            {f"{name}.{part}": loss for name, out in named for part, loss in out.losses.items()},
            {f"{name}.{part}": what for name, out in named for part, what in out.records.items()},
        )

    def run_image_tower(
        self, images: Tensor | NativeImages, *, generator: Randomness = None
    ) -> TowerOutput:
        """Features (B, E), not normalized, with the tower's losses and records.

        Raises:
            ValueError: The tower does not take images of this shape, or they are not normalized.
            TypeError: They are no tensor.
        """
        if isinstance(images, NativeImages):
            self._check_native(images)
        elif not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            self._check_images(images)
        if isinstance(self.visual, VisionTransformer):
            return self.visual.run(images, generator=generator)
        return TowerOutput(self.visual(images), {}, {})

    def run_text_tower(self, tokens: Tensor, *, generator: Randomness = None) -> TowerOutput:
        """Features (B, E), not normalized, with the tower's losses and records.

        A causal tower that reads the end token computes the captions without their padding, which
        changes no feature; under `torch.compile`, export and `torch.func.vmap` it computes all T
        positions, so that shapes stay fixed (`trim_tokens` shortens them beforehand).

        Raises:
            ValueError: The tokens' shape does not fit the context, or they are not ids of the
                vocabulary, which is checked on the CPU only.
        """
        text = self.config.text
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            self._check_tokens(tokens)
        tokens = self._as_ids(tokens)
        if self.pooling is not None:
            return self._run_pooled_text(tokens, generator)
        if self._may_depend_on_values(tokens):
            return TowerOutput(self._encode_packed(tokens), {}, {})
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]  # (B, T, D)
        x = self.transformer(x, Padded(causal=text.causal, read_at=self._read_at(tokens)))
        return TowerOutput(self._project_text(x[:, 0]), {}, {})

    def trim_tokens(self, tokens: Tensor, *, multiple: int = 8) -> Tensor:
        """Tokens (B, T') without the columns that no feature depends on.

        Args:
            tokens: (B, T).
            multiple: T' is the smallest multiple of this that holds every end token, at most T; a
                compiled model then gets few shapes.
        """
        text = self.config.text
        if multiple < 1:
            raise ValueError(f"multiple must be positive, got {multiple}; 1 trims the most")
        if not text.causal or text.readout == "last" or not len(tokens):
            return tokens
        longest = int(torch.as_tensor(self._read_at(self._as_ids(tokens))).max()) + 1
        return tokens[:, : -(-longest // multiple) * multiple]

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute each transformer layer in the backward pass instead of keeping its activations.

        Convolutional towers are not changed: recomputing would update batch statistics twice.
        """
        for module in self.modules():
            if isinstance(module, Transformer):
                module.gradient_checkpointing = enabled

    def _add_text_tower(self) -> None:
        text, embed_dim = self.config.text, self.config.embed_dim
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.transformer = Transformer(text)
        self.pooling = None if text.pooling is None else PooledLayers(text.pooling, text.width)
        self.ln_final = nn.LayerNorm(text.width, text.layer_norm_eps)
        self.text_projection: nn.Parameter | nn.Linear | None = None
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        if text.projection == "linear":
            self.text_projection = nn.Parameter(torch.empty(text.width, embed_dim))
            nn.init.normal_(self.text_projection, std=text.width**-0.5)
        elif text.projection == "linear_bias":
            self.text_projection = nn.Linear(text.width, embed_dim)
            nn.init.normal_(self.text_projection.weight, std=text.width**-0.5)
            nn.init.zeros_(self.text_projection.bias)

    def _check_images(self, images: Tensor) -> None:
        _require_tensor(images, "images", "(B, 3, H, W)")
        smallest = self.config.vision.smallest_image
        shape = images.shape
        if len(shape) != 4 or shape[1] != 3 or shape[2] < smallest or shape[3] < smallest:
            raise ValueError(
                f"images must be (B, 3, H, W) with sides of at least {smallest}, "
                f"got {tuple(shape)}; resize them with the model's Preprocess"
            )
        _require_normalized(images)

    def _check_native(self, images: NativeImages) -> None:
        vision = self.config.vision
        if not isinstance(vision, ViTConfig):
            raise ValueError(
                f"images must be (B, 3, H, W) for a tower of kind {vision.kind!r}, got images of "
                "their own shape; only vision transformers take those"
            )
        wanted = vision.patch_size**2 * 3
        if images.patches.shape[2] != wanted:
            raise ValueError(
                f"patches must have {vision.patch_size} x {vision.patch_size} x 3 = {wanted} "
                f"numbers, got {images.patches.shape[2]}; cut them with the model's Preprocess"
            )
        _require_normalized(images.patches)

    def _check_tokens(self, tokens: Tensor) -> None:
        _require_tensor(tokens, "tokens", "(B, T)")
        longest = self.config.text.context_length
        if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= longest:
            raise ValueError(
                f"tokens must be (B, T) with T from 1 to {longest}, "
                f"got {tuple(tokens.shape)}; tokenize with the model's context_length"
            )

    def _as_ids(self, tokens: Tensor) -> Tensor:
        """Integers of any type (B, T) as ids that the embedding takes."""
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise ValueError(
                f"tokens must be integers, got {tokens.dtype}; pass the ids of a tokenizer"
            )
        if tokens.dtype not in (torch.int32, torch.int64):
            tokens = tokens.long()
        if tokens.device.type == "cpu" and _has_concrete_values(tokens):
            low, high = (int(bound) for bound in tokens.aminmax())
            size = self.token_embedding.num_embeddings
            if low < 0 or high >= size:
                raise ValueError(
                    f"tokens must be ids from 0 to {size - 1}, got {low if low < 0 else high}; "
                    "use the tokenizer that the model was trained with"
                )
        return tokens

    def _read_at(self, tokens: Tensor) -> int | Tensor:
        """Position of the feature: one for all rows, or (B,)."""
        text = self.config.text
        if text.readout != "end_token":
            return 0 if text.readout == "first" else -1
        if text.eot_token_id is None:
            if text.end_token_id < text.vocab_size - 1:
                tokens = tokens.masked_fill(tokens > text.end_token_id, -1)
            return tokens.argmax(dim=1)
        return (tokens == text.eot_token_id).to(torch.uint8).argmax(dim=1)

    def _may_depend_on_values(self, tokens: Tensor) -> bool:
        """Whether shapes may follow the captions' lengths, as in no graph of fixed shapes."""
        text = self.config.text
        return text.causal and text.readout == "end_token" and _has_concrete_values(tokens)

    def _encode_packed(self, tokens: Tensor) -> Tensor:
        """(B, E), computing N = sum of lengths positions; a caption ends at its end token."""
        lengths = cast(Tensor, self._read_at(tokens)).cpu() + 1  # (B,)
        packed = Packed(lengths, tokens.device)
        x = self.token_embedding(tokens[packed.row, packed.position])  # (N, D)
        x = x + F.embedding(packed.position, self.positional_embedding)
        x = self.transformer(x, packed)  # (B, D), sorted by length
        return self._project_text(x)[packed.unsort]

    def _run_pooled_text(self, tokens: Tensor, generator: Randomness) -> TowerOutput:
        """Run the pooled layers; padding after the end token takes no part."""
        text = self.config.text
        assert self.pooling is not None
        if self._may_depend_on_values(tokens):
            tokens = self.trim_tokens(tokens, multiple=1)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        at = self._read_at(tokens)
        read_at = at if isinstance(at, Tensor) else places[at].expand(tokens.shape[0])  # (B,)
        ends = text.causal and text.readout == "end_token"
        mask = places <= read_at[:, None] if ends else None  # (B, T)
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        pooled = self.pooling(
            self.transformer,
            x,
            keep_apart=places == read_at[:, None],
            mask=mask,
            causal=text.causal,
            read=read_at,
            generator=generator,
        )
        features = self._project_text(pooled.tokens[:, 0])
        return TowerOutput(features, pooled.losses, pooled.records)

    def _project_text(self, x: Tensor) -> Tensor:
        """The read tokens (B, D) to features (B, E)."""
        x = self.ln_final(x)
        if self.text_projection is None:
            return x
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(x)
        return x @ self.text_projection


def count_parameters(model: nn.Module) -> int:
    """Numbers in the parameters of a module, those that share memory counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _require_tensor(value: object, name: str, shape: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch tensor {shape}, got {type(value).__name__}; torch.as_tensor "
            "converts arrays and lists"
        )


def _require_normalized(images: Tensor) -> None:
    if not images.is_floating_point():
        raise ValueError(
            f"images must be normalized floating-point numbers, got {images.dtype}; "
            "Preprocess.normalize converts uint8"
        )


def _has_concrete_values(tokens: Tensor) -> bool:
    """Whether Python may read the numbers, as in no graph and no function transform."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and type(tokens) is Tensor
        and tokens.shape[0] > 0
        and tokens.device.type not in ("meta", "xla")
        and not torch._C._functorch.is_functorch_wrapped_tensor(tokens)
    )


def _note_activations(
    module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any]
) -> None:
    """Store the towers' activations, which no shape tells, in the metadata of a state dict."""
    config = cast(CLIP, module).config
    vision = getattr(config.vision, "activation", config.text.activation)
    metadata[ACTIVATIONS] = (vision, config.text.activation)


def _rename_foreign_keys(
    module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Rename the keys of open_clip's timm trunks and separate text towers for `load_state_dict`.

    The three numbers in OpenAI's archives, whose keys are ours otherwise, are removed.
    """
    if any(prefix + name in state for name in openai.EXTRAS):
        openai.require_activation(cast(CLIP, module).config)
        for name in openai.EXTRAS:
            state.pop(prefix + name, None)
    own = {key.removeprefix(prefix): key for key in state if key.startswith(prefix)}
    if open_clip.has_foreign_names(own):
        weights = {name: state.pop(key) for name, key in own.items()}
        renamed = open_clip.to_native(weights)
        state.update({prefix + name: value for name, value in renamed.items()})
    for name in ("logit_scale", "logit_bias"):
        if prefix + name in state and state[prefix + name].numel() == 1:
            state[prefix + name] = state[prefix + name].reshape(())
