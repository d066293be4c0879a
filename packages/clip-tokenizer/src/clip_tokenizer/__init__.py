"""Text to CLIP token ids: exact, fast, offline, without torch."""

from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.tokenizer import Offsets, Tokenizer

__all__ = ["Offsets", "Tokenizer", "TokenizerError"]
