"""`python -m clip_train.gpu_check --out DIR [--minutes M]`."""

import sys

from clip_train.gpu_check.command import main

if __name__ == "__main__":
    sys.exit(main())
