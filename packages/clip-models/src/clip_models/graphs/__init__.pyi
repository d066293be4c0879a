from .encoders import ImageEncoder, TextEncoder

__all__ = ["ImageEncoder", "TextEncoder"]
