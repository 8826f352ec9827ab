"""A published backbone whose receiver is a TAESD-sized decoder in tiles, random weights: `tiles.py FOLDER` makes it and prints its file;
`tiles.py FOLDER PAYLOAD PNG RUNS` decodes a payload with its receiver, writes the picture and prints seconds as JSON.
"""

import json
import sys
import time
from pathlib import Path

from PIL import Image

from experiments.decoders.run import PX, export_all
from megen import codec
from megen.ue.receiver import Receiver

folder, given = Path(sys.argv[1]), sys.argv[2:]
if not given:
    receiver = export_all(folder, own=False)["TAESD in tiles"]
    own = {"source": str(folder / "sdxl"), "decoder": str(folder / "taesd"), "image_px": PX, "steps": [1, 2], "receiver": str(receiver)}
    (folder / "tiles.json").write_text(json.dumps(own))
    print(folder / "tiles.json")
else:
    receiver, payload = Receiver.load(folder / "TAESD in tiles", threads=1), codec.unpack(Path(given[0]).read_bytes())
    wall_ms = []
    for _ in range(int(given[2])):
        began_s = time.perf_counter()
        image = receiver.decode(payload)
        wall_ms.append(1000 * (time.perf_counter() - began_s))
    Image.fromarray(image).save(given[1])
    print(json.dumps({"wall_ms": wall_ms}))
