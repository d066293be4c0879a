"""Bodies of the sub-commands of `dtp-lm`, imported when they are called."""
