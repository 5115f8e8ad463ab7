"""``python -m vrestore``."""

import sys

from vrestore.cli import main

sys.exit(main())
