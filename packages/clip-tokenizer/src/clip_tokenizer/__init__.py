"""Text to CLIP token ids: exact, fast, offline, without torch."""

from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.fit import check_text_tower
from clip_tokenizer.hugging_face import HFTokenizer
from clip_tokenizer.reduction import OpenClipGenerator, Reduction, SyntaxOrder
from clip_tokenizer.registry import get_tokenizer
from clip_tokenizer.text_encoder import Offsets
from clip_tokenizer.token_rows import TokenRows
from clip_tokenizer.tokenizer import Tokenizer
from clip_tokenizer.vocabulary_files import holds_tokenizer

__all__ = [
    "HFTokenizer",
    "Offsets",
    "OpenClipGenerator",
    "Reduction",
    "SyntaxOrder",
    "TokenRows",
    "Tokenizer",
    "TokenizerError",
    "check_text_tower",
    "get_tokenizer",
    "holds_tokenizer",
]
