"""Bodies of the sub-commands of `osf`, imported when they are called."""
