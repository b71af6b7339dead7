#!/usr/bin/env bash
# Lint, format and types, in the virtual environment of scripts/test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${SVC_VENV:-.venv}"
if [ "${1:-}" = --install ]; then bash scripts/test.sh --install-only; fi

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
