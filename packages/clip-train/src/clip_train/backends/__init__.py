"""Where training runs: one process, several under torchrun, or XLA."""

from clip_train.backends.choice import BACKENDS, open_backend
from clip_train.backends.protocol import Backend, BackendError
from clip_train.backends.single import SingleBackend

__all__ = ["BACKENDS", "Backend", "BackendError", "SingleBackend", "open_backend"]
