"""`python -m dicomdl` is the command `dicomdl`."""

import sys

from dicomdl.cli import main

sys.exit(main())
