#!/usr/bin/env bash
# Installs the project with its test tools into .venv, then runs the tests.
#
#   bash scripts/test.sh                    all tests, in two processes
#   bash scripts/test.sh tests/audio -x     arguments go to pytest
#   bash scripts/test.sh --install-only     no tests
#
# SVC_VENV names another virtual environment than .venv, PYTHON another Python to make it with.
set -euo pipefail
# shellcheck source=scripts/venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

cd "$PROJECT"
ensure_venv dev
if [ "${1:-}" = --install-only ]; then exit 0; fi
# Waiting threads sleep: on a machine that is busy with other things, spinning ones cost several times the work.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
if [ $# -gt 0 ]; then exec "$VENV_BIN/python" -m pytest "$@"; fi
# A file stays in one process: its tests share what is costly to set up. Each process computes in one thread.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$VENV_BIN/python" -m pytest -n "${SVC_TEST_PROCESSES:-2}" --dist loadfile
