"""`python -m clip_train`, which is what torchrun starts."""

import sys

from clip_train.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
