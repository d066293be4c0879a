"""`python -m dtp_pooling`, for torchrun: the command `dtp-lm`."""

import sys

from dtp_pooling.cli import main

if __name__ == "__main__":
    sys.exit(main())
