"""`python -m clip_eval` is the `clip-eval` command."""

import sys

from clip_eval.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
