"""``python -m pyrovae.cli``."""

import sys

from pyrovae.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
