# shellcheck shell=bash
# Sourced by quickstart.sh and test.sh: a virtual environment with this project in it.
#
#   ensure_venv            installs the project
#   ensure_venv dev        installs it with the extra "dev"
#
# Afterwards VENV_BIN is the folder of its programs. Nothing is done twice: a stamp in the environment remembers
# what was installed. Read from the environment:
#   SVC_VENV   where it lies (default: .venv in the project)
#   PYTHON     the Python to make it with (default: the first of python3, python3.13 ... python3.10, python that fits)
#   SVC_CONSTRAINTS  versions to install (default: scripts/constraints.txt); SVC_VENV_FLAGS  flags of python -m venv
# pip reads its own PIP_* variables, for example for an index with a CPU-only build of torch.

PROJECT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${SVC_VENV:-$PROJECT/.venv}"
case "$VENV" in
/* | [A-Za-z]:*) ;;
*) VENV="$PWD/$VENV" ;;
esac
VENV_BIN=""

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

python_fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        python_fits "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.10 or newer"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if python_fits "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no Python 3.10 or newer found; install one, or name it: PYTHON=/path/to/python bash ${0##*/}"
}

find_venv_bin() {
    VENV_BIN="$VENV/bin"
    if [ -d "$VENV/Scripts" ]; then VENV_BIN="$VENV/Scripts"; fi # Windows
}

ensure_venv() {
    local extra="${1:-}" python stamp wanted constraints="${SVC_CONSTRAINTS:-$PROJECT/scripts/constraints.txt}"
    find_venv_bin
    # An interrupted set-up leaves an environment whose Python or pip does not start: make it anew.
    if ! { python_fits "$VENV_BIN/python" && "$VENV_BIN/python" -m pip --version >/dev/null 2>&1; }; then
        if [ -d "$VENV" ] && [ ! -f "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
            die "$VENV is not a virtual environment; move it away, or choose another place with SVC_VENV"
        fi
        python="$(find_python)"
        set -- -m venv --clear ${SVC_VENV_FLAGS:-} "$VENV"
        printf '$ %s %s\n' "$python" "$*"
        "$python" "$@" ||
            die "$python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)"
        find_venv_bin
    fi
    wanted="$("$VENV_BIN/python" - "$PROJECT" "$extra" "$constraints" <<'PY'
import hashlib, pathlib, sys
root, extra, constraints = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
digest = hashlib.sha256(f"{root}|{extra}|{sys.version}".encode())
for path in (root / "pyproject.toml", constraints, root / "svc/__init__.py"):
    digest.update(path.read_bytes())
print(digest.hexdigest())
PY
)"
    stamp="$VENV/.svc-installed${extra:+-$extra}"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi
    echo "Installing into $VENV; the first time this takes a few minutes."
    set -- -m pip install --quiet --disable-pip-version-check -c "$constraints" \
        -e "$PROJECT${extra:+[$extra]}"
    printf '$ python %s\n' "$*"
    "$VENV_BIN/python" "$@" || die "the installation failed; see the lines above"
    printf '%s\n' "$wanted" >"$stamp"
}
