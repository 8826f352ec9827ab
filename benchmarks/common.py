"""What every benchmark shares: where results go, and what they say of their making."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from megen.models.weights import provenance

RESULTS = Path(__file__).parent / "results"


def write(name: str, result: dict[str, Any]) -> None:
    """Write `results/NAME.json` with provenance, and print the result as one JSON line."""
    RESULTS.mkdir(exist_ok=True)
    made = {**provenance(), "command": " ".join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d")}
    temporary = RESULTS / f"{name}.json.tmp"
    temporary.write_text(json.dumps({**result, "made_by": made}, indent=2) + "\n")
    os.replace(temporary, RESULTS / f"{name}.json")
    print(json.dumps(result))
