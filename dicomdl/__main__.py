"""The entry point of `python -m dicomdl`, equal to the command `dicomdl`."""

import sys

from dicomdl.cli.main import main

sys.exit(main())
