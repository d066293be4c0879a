"""Where training runs: one process, several under torchrun, or XLA."""
