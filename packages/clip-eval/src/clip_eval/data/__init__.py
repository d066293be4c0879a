"""Image-text data of every format as sources of samples with random access.

A format is a reader in `readers` and a row of the table in `formats`. The base class of readers is
in `samples`; `shards` holds what readers of indexed shards share.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
