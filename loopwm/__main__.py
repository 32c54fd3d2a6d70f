"""`python -m loopwm` is the command line."""

import sys

from loopwm.cli import main

if __name__ == "__main__":
    sys.exit(main())
