"""Load, faults and capacity of an edge server. As in `megen serve`, threads of PyTorch that wait do not spin: read when it loads."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
