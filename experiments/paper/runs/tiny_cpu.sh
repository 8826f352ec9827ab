#!/usr/bin/env bash
# All parts of the source system's figures at their smallest, on a CPU: a few minutes. Results have the suffix -tiny.
set -euo pipefail
cd "$(dirname "$0")/../../.."
PYTHON=${PYTHON:-.venv/bin/python}
"$PYTHON" -m experiments.paper.run --prompts 2 --iterations 1 --seeds 1 --work "${WORK:-out/paper-tiny}" --suffix=-tiny
