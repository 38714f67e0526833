"""``python -m multitask_serving.gateway``: the gateway of a cluster."""

from __future__ import annotations

import sys

from multitask_serving.gateway.cluster.program import main

if __name__ == "__main__":
    sys.exit(main())
