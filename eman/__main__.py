"""``python -m eman`` is the command ``eman``."""

import sys

from eman.cli import main

sys.exit(main())
