"""A model as a pair of functions to unit vectors, with a cache of embeddings.

Legend: B batch, T tokens, G groups of prompts, D width, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from clip_models import NativeImages
from torch import Tensor
from torch.nn.functional import normalize

from clip_eval.data.images import DECODING
from clip_eval.encoding.cache import EmbeddingStore, digest_parts
from clip_eval.encoding.views import Views, average_views
from clip_eval.errors import EvaluationError
from clip_eval.models.context_length import count_cut
from clip_eval.models.fingerprints import (
    fingerprint,
    model_fingerprint,
    preprocess_fingerprint,
    tokenizer_fingerprint,
)
from clip_eval.models.protocols import ImagePreprocess, ImageTextModel, LoadedModel, TextTokenizer
from clip_eval.models.zero_shot import encode_prompts
from clip_eval.plurals import count_noun

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
GROUPS_AT_ONCE = 1024
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Encoder:
    """Images and prompts to unit vectors.

    Args:
        model: A model on `device`; it is used in its current mode.
        tokenizer: Texts to token ids.
        preprocess: An RGB image to pixels, and their normalization.
        name: Name of the model in results.
        device: Device of the model.
        precision: `fp32`, or `bf16`/`fp16` for a forward pass under autocast.
        batch_size: Prompts per forward pass.
        cache: Directory of the embedding cache; None keeps no embeddings.
        factory: The `module:factory` that made the model; part of its identity in the cache.
        views: Views of each image whose features are averaged.
    """

    def __init__(
        self,
        model: ImageTextModel,
        tokenizer: TextTokenizer,
        preprocess: ImagePreprocess,
        *,
        name: str = "",
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
        batch_size: int = 256,
        cache: str | Path | None = None,
        factory: str = "",
        views: Views = "single",
    ) -> None:
        self.model, self.tokenizer, self.preprocess = model, tokenizer, preprocess
        self.name, self.device, self.precision = name, torch.device(device), precision
        self.batch_size, self.factory, self.views = batch_size, factory, views
        self.preprocess_key = f"{DECODING} {preprocess_fingerprint(preprocess)}"
        self.cache = None if cache is None else Path(cache)
        self.image_store: EmbeddingStore | None = None
        self.text_store: EmbeddingStore | None = None
        self._fingerprint = ""
        if self.cache is not None:
            made_by = (self.fingerprint, precision, self.device.type)
            averaged = () if views == "single" else (f"views {views}",)
            images = fingerprint(*made_by, self.preprocess_key, *averaged)
            texts = fingerprint(*made_by, tokenizer_fingerprint(tokenizer))
            self.image_store = EmbeddingStore(self.cache / "images" / images[:32])
            self.text_store = EmbeddingStore(self.cache / "texts" / texts[:32])

    @property
    def fingerprint(self) -> str:
        """Hash of the model and its factory."""
        if not self._fingerprint:
            self._fingerprint = fingerprint(model_fingerprint(self.model), self.factory)
        return self._fingerprint

    @property
    def scale(self) -> float:
        """Factor on cosine similarity."""
        return float(torch.as_tensor(self.model.logit_scale).detach().float().exp())

    @torch.no_grad()
    def encode_images(self, pixels: Tensor | NativeImages) -> Tensor:
        """Encode preprocessed images (B, 3, H, W) as unit vectors (B, D), float32 on the device.

        Images of their own shape are encoded together too.

        Raises:
            EvaluationError: Images of their own shape are to have several views.
        """
        if isinstance(pixels, NativeImages) and self.views != "single":
            raise EvaluationError(
                f"images in their own aspect ratio have one view, got views {self.views!r}; "
                "choose 'single'"
            )
        inputs: Any = self.preprocess.normalize(pixels.to(self.device))
        return normalize(average_views(self._encode_view, inputs, self.views), dim=-1)

    def _encode_view(self, inputs: Any) -> Tensor:
        with self._autocast():
            features = self.model.encode_image(inputs)
        return normalize(features.float(), dim=-1)

    @torch.no_grad()
    def encode_groups(self, groups: Sequence[Sequence[str]]) -> Tensor:
        """Encode groups of prompts as one unit vector each, (G, D) float32 on the device.

        Groups in the cache are not computed; new ones are on disk after `flush`.
        """
        store = self.text_store
        if store is None:
            return self._encode(groups)
        digests = [digest_parts(*group) for group in groups]
        place: dict[bytes, int] = {}
        for number, digest in enumerate(digests):
            if digest not in store:
                place.setdefault(digest, number)
        passing: dict[bytes, Tensor] = {}  # embeddings that are not finite, which no store keeps
        wanted = list(place)
        for start in range(0, len(wanted), GROUPS_AT_ONCE):
            part = wanted[start : start + GROUPS_AT_ONCE]
            rows = self._encode([groups[place[digest]] for digest in part]).cpu()
            store.add(part, rows)
            passing |= {d: row for d, row in zip(part, rows, strict=True) if d not in store}
        if not passing:
            return store.get(digests).to(self.device)
        found = [passing[d] if d in passing else store.get([d])[0] for d in digests]
        return torch.stack(found).to(self.device)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode single texts as unit vectors (B, D)."""
        return self.encode_groups([(text,) for text in texts])

    def describe_cut(self, texts: Iterable[str], noun: str) -> tuple[str, ...]:
        """Return one sentence if the context of the model cuts some of the texts, else nothing."""
        cut = count_cut(self.tokenizer, texts)
        if not cut.num_cut:
            return ()
        verb = "is cut" if cut.is_exact else "is or may be cut"
        verbs = verb.replace("is", "are", 1)
        return (
            f"{count_noun(cut.num_cut, f'{noun} {verb}', f'{noun}s {verbs}')} to the "
            f"{count_noun(cut.context_length, 'token')} that the model reads",
        )

    def flush(self) -> None:
        """Write new embeddings to disk."""
        for store in (self.image_store, self.text_store):
            if store is not None:
                store.flush()

    def _encode(self, groups: Sequence[Sequence[str]]) -> Tensor:
        with self._autocast():
            return encode_prompts(
                self.model, self.tokenizer, groups, batch_size=self.batch_size, device=self.device
            )

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])


def make_encoder(
    loaded: LoadedModel,
    *,
    device: str | torch.device,
    precision: Precision = "fp32",
    batch_size: int = 256,
    cache: Path | None = None,
    views: Views = "single",
) -> Encoder:
    """Make the encoder of a loaded model."""
    return Encoder(
        loaded.model,
        loaded.tokenizer,
        loaded.preprocess,
        name=loaded.name,
        device=device,
        precision=precision,
        batch_size=batch_size,
        cache=cache,
        factory=loaded.factory,
        views=views,
    )
