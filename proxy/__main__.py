"""`python -m proxy` is `wsgate`."""

import sys

from proxy.cli import main

sys.exit(main())
