#!/usr/bin/env bash
# Compares our content encoders with fairseq, torchaudio, openai-whisper and transformers, on full-size nets with random
# weights and on recordings of speech. Those projects go into a virtual environment of their own (about 6 GB).
#
#   bash scripts/oracle.sh                       all nets, about 30 minutes; prints the table
#   bash scripts/oracle.sh hubert-base           one net
#   bash scripts/oracle.sh --list                the nets
#   bash scripts/oracle.sh --out docs/parity.md  puts the table there
#   bash scripts/oracle.sh --install-only        nothing but the two environments
#
# SVC_ORACLE_VENV names another environment than .oracle-venv; it is used as it is when it holds the versions of
# scripts/oracle/requirements.txt. SVC_VENV, PYTHON: as in scripts/test.sh. SVC_SHARED names the folder with audio/,
# weights/ and spec/ (default: shared beside the project). pip reads its own PIP_* variables.
set -euo pipefail
# shellcheck source=scripts/venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

ORACLE="${SVC_ORACLE_VENV:-$PROJECT/.oracle-venv}"
case "$ORACLE" in
/* | [A-Za-z]:*) ;;
*) ORACLE="$PWD/$ORACLE" ;;
esac
REQUIREMENTS="$PROJECT/scripts/oracle/requirements.txt"

find_oracle_python() {
    ORACLE_PYTHON="$ORACLE/bin/python"
    if [ -d "$ORACLE/Scripts" ]; then ORACLE_PYTHON="$ORACLE/Scripts/python"; fi # Windows
}

# Whether the environment has the wanted versions, whoever made it.
oracle_is_ready() {
    "$ORACLE_PYTHON" - "$REQUIREMENTS" >/dev/null 2>&1 <<'PY'
import importlib.metadata, pathlib, sys
for line in pathlib.Path(sys.argv[1]).read_text().splitlines():
    if line and not line.startswith("#"):
        name, version = line.split("==")
        if importlib.metadata.version(name).split("+")[0] != version:
            sys.exit(1)
PY
}

ensure_oracle() {
    local python
    find_oracle_python
    if oracle_is_ready; then return; fi
    if ! "$ORACLE_PYTHON" -m pip --version >/dev/null 2>&1; then
        if [ -d "$ORACLE" ] && [ ! -f "$ORACLE/pyvenv.cfg" ] && [ -n "$(ls -A "$ORACLE")" ]; then
            die "$ORACLE is not a virtual environment; move it away, or choose another place with SVC_ORACLE_VENV"
        fi
        python="$(find_python)"
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            die "$python is older than 3.11, which fairseq-fixed needs; name a newer one with PYTHON"
        printf '$ %s -m venv --clear %s\n' "$python" "$ORACLE" >&2
        "$python" -m venv --clear "$ORACLE" ||
            die "$python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)"
        find_oracle_python
    fi
    echo "Installing fairseq and the others into $ORACLE; this takes a few minutes." >&2
    "$ORACLE_PYTHON" -m pip install --quiet --disable-pip-version-check -r "$REQUIREMENTS" >&2 ||
        die "the installation failed; see the lines above"
    oracle_is_ready || die "$ORACLE does not hold the versions of $REQUIREMENTS after the installation"
}

RUN="$PROJECT/scripts/oracle/run.py"
ensure_venv >&2
case " $* " in
*" --install-only "*) ;;
*" --list "* | *" --help "* | *" -h "*) exec "$VENV_BIN/python" "$RUN" "$@" ;;
*) "$VENV_BIN/python" "$RUN" "$@" --list >/dev/null || exit 2 ;; # wrong arguments, before anything is installed
esac
ensure_oracle
if [ "${1:-}" = --install-only ]; then exit 0; fi
exec "$VENV_BIN/python" "$RUN" --oracle "$ORACLE_PYTHON" "$@"
