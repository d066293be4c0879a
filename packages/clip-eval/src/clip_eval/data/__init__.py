"""Readers of image-text data: every format as a source of samples with random access."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
