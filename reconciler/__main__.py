"""`python -m reconciler` is `ecs-reconciler`."""

import sys

from reconciler.cli import main

sys.exit(main())
