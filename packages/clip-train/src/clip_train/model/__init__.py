"""The model of a run: towers around the backend, parameter groups."""
