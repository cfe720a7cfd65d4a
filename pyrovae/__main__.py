"""``python -m pyrovae``: the command."""

import sys

from pyrovae.cli import main

if __name__ == "__main__":
    sys.exit(main())
