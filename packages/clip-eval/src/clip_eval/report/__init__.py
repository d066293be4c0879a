"""Results as pages, tables and comparisons."""
