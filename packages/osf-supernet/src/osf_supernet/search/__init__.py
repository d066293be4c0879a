"""Search of the best subnets under bounds, with measured latencies and a picture of the front."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
