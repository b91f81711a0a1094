"""Run the command line by ``python -m eman``."""

import sys

from eman.cli import main

sys.exit(main())
