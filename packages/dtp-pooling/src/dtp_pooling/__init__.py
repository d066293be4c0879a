"""Dynamic token pooling: exact, linear-time pooling over learned segments."""
