"""Other systems' command lines and recipes as our TOML."""
