"""Vid4, scored: ``python tools/evaluate_vid4.py --lq DIR --gt DIR -n basicvsr-vimeo-bi``.

As ``vrestore evaluate --protocol vid4``, whose flags it takes.
"""

import sys

from vrestore.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", "--protocol", "vid4", *sys.argv[1:]]))
