"""Class names, templates and prompt sets."""
