"""`python -m p2pdist` is `p2pdist`."""

import sys

from p2pdist.cli import main

sys.exit(main())
