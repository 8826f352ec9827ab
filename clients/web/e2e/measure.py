"""What the Python user equipment takes for payloads: `measure.py RUNS FILE`, printed as JSON."""

import json
import sys
import time
from pathlib import Path

from megen import codec
from megen.ue.receiver import Receiver

runs, payload = int(sys.argv[1]), codec.unpack(Path(sys.argv[2]).read_bytes())
receiver = Receiver.load("scenes", threads=1)
receiver.decode(payload)
cpu_ms, wall_ms = [], []
for _ in range(runs):
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    receiver.decode(payload)
    cpu_ms.append(1000 * (time.process_time() - cpu_s))
    wall_ms.append(1000 * (time.perf_counter() - wall_s))
print(json.dumps({"cpu_ms": cpu_ms, "wall_ms": wall_ms}))
