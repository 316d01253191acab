"""``python -m rlgrad.cli``, the same as ``rlgrad``."""

import sys

from rlgrad.cli import main

sys.exit(main())
