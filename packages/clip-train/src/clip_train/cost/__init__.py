"""What a run costs before anyone spends it."""
