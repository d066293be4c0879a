"""What a run writes besides weights: metrics, curves, directories."""
