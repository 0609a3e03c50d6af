#!/usr/bin/env bash
# What a GPU does with ssod, in some eight minutes: tests, seconds of a step, memory, waits, loader, thresholds, export.
#
#   tools/gpu_check.sh [-o FOLDER] [options of python -m tools.gpu_check]
#
# Runs from a bare clone. Where the packages of the README are not there, it makes an environment first, in FOLDER/venv.
set -euo pipefail
cd "$(dirname "$0")/.."

out=runs/gpu_check
for ((i = 1; i <= $#; i++)); do
    if [ "${!i}" = -o ] && [ "$i" -lt $# ]; then
        next=$((i + 1)) out=${!next}
    fi
done
python=${PYTHON:-python3}
if ! "$python" -c "import torch, torchvision, pydantic, sklearn, safetensors, pytest, hypothesis" 2>/dev/null; then
    mkdir -p "$out"
    "$python" -m venv "$out/venv"
    "$out/venv/bin/pip" install --quiet ".[test]"
    python=$out/venv/bin/python
fi
exec "$python" -m tools.gpu_check "$@"
