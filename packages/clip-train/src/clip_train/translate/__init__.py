"""Other systems' command lines and recipes as TOML."""
