"""Counts with their nouns, in the singular and the plural."""


def count_noun(count: int, one: str, many: str = "") -> str:
    """Format a count with its noun: `1 image`, `2,000 images`, `1 class`, `2 classes`.

    Args:
        count: How many.
        one: The noun, and the words that agree with it, for a count of 1.
        many: The same for other counts; `one` with an s if empty.
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
