"""Load, faults and capacity of an edge server. PyTorch's threads wait as in `megen serve`: read when it loads."""

from megen.threads import ready_threads

ready_threads()
