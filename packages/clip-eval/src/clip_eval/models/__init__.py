"""Models to evaluate: our directories, and adapters of other libraries' models."""
