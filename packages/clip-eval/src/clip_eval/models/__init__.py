"""Models to evaluate: ours, other libraries', and what is asked of each."""
