from .clipa_config import from_clipa
from .dialect_names import DIALECTS, Dialect
from .dialects import detect_dialect, from_native, to_native
from .hugging_face_config import from_hugging_face_config, to_hugging_face_config
from .open_clip_config import from_open_clip, to_open_clip

__all__ = [
    "DIALECTS",
    "Dialect",
    "detect_dialect",
    "from_clipa",
    "from_hugging_face_config",
    "from_native",
    "from_open_clip",
    "to_hugging_face_config",
    "to_native",
    "to_open_clip",
]
