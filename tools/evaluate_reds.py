"""REDS4, scored: ``python tools/evaluate_reds.py --lq DIR --gt DIR -n basicvsr-reds4``.

As ``vrestore evaluate --protocol reds4``, whose flags it takes; ``--protocol reds-val`` for the 30
clips of the official validation set.
"""

import sys

from vrestore.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", "--protocol", "reds4", *sys.argv[1:]]))
