"""`python -m sparseact` is the command line."""

import sys

from sparseact.cli import main

if __name__ == "__main__":
    sys.exit(main())
