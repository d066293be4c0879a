"""The keys of a run, checked, and the named presets."""
