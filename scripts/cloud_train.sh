#!/usr/bin/env bash
# Trains a voice on a rented machine with GPUs: installs, prepares the data set, trains on all GPUs with TensorBoard
# beside it, and packs the best voice to be fetched. Run again, it goes on where it was: after a pre-emption, a reboot,
# or Ctrl-C. SIGTERM, as clouds send it before they take a machine away, lets the training save first.
#
#   NAME=alice VOICES=dataset_raw bash scripts/cloud_train.sh             all of it
#   NAME=alice bash scripts/cloud_train.sh fetch                          pack what there is now
#
# VOICES holds one folder of recordings per voice. Copy them to the machine, with the weights of the speech encoder in
# pretrain/; or only configs/, filelists/ and dataset/44k/features.pack of a data set that is prepared already. A base
# model goes to logs/NAME/G_0.pth and D_0.pth. Put WORK on a disk that outlives the machine. Start the script in tmux,
# with nohup, or from the machine's start-up script, and see the loss with
#   ssh -L 6006:localhost:6006 THE_MACHINE      and a browser at http://localhost:6006
#
# Settings, from the environment:
#   NAME             name of the run (default: voice)
#   WORK             folder of data set, configs, logs and result (default: where you are)
#   VOICES           the recordings (default: WORK/dataset_raw)
#   SLICE            1 = they are long: cut them into clips first (default: 0)
#   TEMPLATE         config to start from, see  svc preprocess --help  (default: template.json)
#   ENCODER          content encoder (default: the template's)
#   F0               pitch predictor (default: svc's)
#   GPUS             how many train together, or all (default: all)
#   DEVICE           cpu = no GPU, for trying this script (default: the GPUs)
#   PREPROCESS_ARGS  further flags of svc preprocess, separated by spaces
#   TRAIN_ARGS       further flags of svc train, such as "--max_minutes 600 --patience 30"
#   PORT             of TensorBoard; 0 = none (default: 6006)
#   SVC_PYTHON       a Python that has svc installed: nothing is installed
#   TORCH            what to install as torch, for a driver that is too old for the newest, such as torch==2.8.0
#   SVC_VENV, PYTHON see scripts/venv.sh; a torch that PYTHON has and that sees the GPU is used
set -euo pipefail
# shellcheck source=scripts/venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

NAME="${NAME:-voice}"
WORK="${WORK:-$PWD}"
VOICES="${VOICES:-$WORK/dataset_raw}"
SLICE="${SLICE:-0}"
TEMPLATE="${TEMPLATE:-template.json}"
ENCODER="${ENCODER:-}"
F0="${F0:-}"
GPUS="${GPUS:-all}"
DEVICE="${DEVICE:-}"
PORT="${PORT:-6006}"
read -r -a PREPROCESS_FLAGS <<<"${PREPROCESS_ARGS:-}"
read -r -a TRAIN_FLAGS <<<"${TRAIN_ARGS:-}"
SVC_PYTHON="${SVC_PYTHON:-}"

TRAINING="" BOARD=""

usage() {
    sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
}

svc() {
    printf '\n$ svc'
    printf ' %q' "$@"
    printf '\n'
    "$SVC_PYTHON" -m svc "$@"
}

# Commands that leave out bad files and go on return 1 for it and say which ones; that is no reason to stop.
svc_lenient() {
    local status=0
    svc "$@" || status=$?
    if [ "$status" -eq 1 ]; then
        echo "note: some files were left out, see above; going on with the others"
    elif [ "$status" -ne 0 ]; then
        die "svc $1 failed, see above"
    fi
}

# ------------------------------------------------------------------------------------------------- the machine
sees_gpu() {
    "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1
}

set_up() {
    if [ -n "$SVC_PYTHON" ]; then
        "$SVC_PYTHON" -c 'import svc' || die "SVC_PYTHON=$SVC_PYTHON has no svc; leave it out to install it"
    else
        install
        SVC_PYTHON="$VENV_BIN/python"
    fi
    if [ "$DEVICE" != cpu ] && ! sees_gpu "$SVC_PYTHON"; then
        die "torch sees no GPU: look at  nvidia-smi ; a torch that its driver is too old for is replaced with" \
            "TORCH=torch==2.8.0  or an older one, in another SVC_VENV"
    fi
}

install() {
    local python torch="${TORCH:-}"
    python="$(find_python)"
    if [ -z "$torch" ] && sees_gpu "$python"; then
        # The machine's own torch fits its driver, and is there already.
        torch="torch==$("$python" -c 'import torch; print(torch.__version__)')"
        export SVC_VENV_FLAGS=--system-site-packages
    fi
    if [ -n "$torch" ]; then
        mkdir -p -- "$WORK"
        export SVC_CONSTRAINTS="$WORK/.constraints.txt"
        # The pins of the tested set, but for the packages that only fit the one torch.
        grep -v -E '^(torch|torchaudio)==' "$PROJECT/scripts/constraints.txt" >"$SVC_CONSTRAINTS"
        printf '%s\n' "$torch" >>"$SVC_CONSTRAINTS"
    fi
    ensure_venv
}

# ---------------------------------------------------------------------------------------------------- the data
# What decides what clips and features are: a changed recording or setting makes them anew.
fingerprint() {
    {
        printf '%s\n' "$@"
        find "$VOICES" -type f -printf '%P %s %T@\n' | LC_ALL=C sort
    } | sha256sum
}

# is_done FILE TEXT: whether mark_done was called with the same.
is_done() {
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

mark_done() {
    printf '%s\n' "$2" >"$1"
}

prepare() {
    local clips features recordings="$VOICES"
    local -a flags=(--template "$TEMPLATE")
    if [ ! -d "$VOICES" ] && [ -f configs/config.json ] && [ -f dataset/44k/features.pack ]; then
        echo "No recordings in $VOICES: the voice learns from dataset/44k/features.pack."
        return
    fi
    [ -d "$VOICES" ] || die "there is no folder $VOICES; copy the recordings there, one folder per voice, or set VOICES"
    if [ -n "$ENCODER" ]; then flags+=(--speech_encoder "$ENCODER"); fi
    if [ -n "$F0" ]; then flags+=(--f0_predictor "$F0"); fi
    flags+=(${PREPROCESS_FLAGS[@]+"${PREPROCESS_FLAGS[@]}"})
    clips="$(fingerprint "$SLICE")"
    features="$(fingerprint "$SLICE" "${flags[@]}")"
    if [ ! -d dataset ] || ! is_done .clips "$clips"; then
        if [ "$SLICE" = 1 ]; then
            svc_lenient slice --in_dir "$VOICES" --out_dir sliced
            recordings=sliced
        fi
        svc_lenient resample --in_dir "$recordings"
        mark_done .clips "$clips"
    fi
    # Features that are there already are not computed again.
    if [ ! -f configs/config.json ] || ! is_done .features "$features"; then
        if [ -n "$DEVICE" ]; then flags+=(--device "$DEVICE"); fi
        svc_lenient preprocess --gpus "$GPUS" "${flags[@]}"
        mark_done .features "$features"
    fi
}

# ------------------------------------------------------------------------------------------------ the training
start_board() {
    if [ "$PORT" = 0 ]; then return; fi
    "$SVC_PYTHON" -m tensorboard.main --logdir logs --port "$PORT" --host 127.0.0.1 >tensorboard.log 2>&1 &
    BOARD=$!
    echo "TensorBoard: http://localhost:$PORT on this machine, through  ssh -L $PORT:localhost:$PORT"
}

stop_board() {
    if [ -n "$BOARD" ]; then kill "$BOARD" 2>/dev/null || true; fi
    BOARD=""
}

# Hands a signal on to the training, which saves and ends.
hand_on() {
    if [ -n "$TRAINING" ]; then
        echo "The training saves and ends ..."
        kill -s TERM "$TRAINING" 2>/dev/null || true
    fi
}

train() {
    local status=0
    local -a flags=(-c configs/config.json -m "$NAME" --gpus "$GPUS")
    if [ -n "$DEVICE" ]; then flags+=(--device "$DEVICE"); fi
    flags+=(${TRAIN_FLAGS[@]+"${TRAIN_FLAGS[@]}"})
    start_board
    printf '\n$ svc train'
    printf ' %q' "${flags[@]}"
    printf '\n'
    trap hand_on TERM HUP INT
    # In the background, or the shell would wait for its end before it looks at a signal. There it ignores Ctrl-C.
    "$SVC_PYTHON" -m svc train "${flags[@]}" &
    TRAINING=$!
    # A signal ends the first wait, and not the training.
    wait "$TRAINING" || status=$?
    while kill -0 "$TRAINING" 2>/dev/null; do
        status=0
        wait "$TRAINING" || status=$?
    done
    TRAINING=""
    trap - TERM HUP INT
    stop_board
    return "$status"
}

# -------------------------------------------------------------------------------------------------- the result
fetch() {
    local run="logs/$NAME" best archive="$WORK/$NAME.tar"
    local -a files
    best="$run/G_best.pth"
    if [ ! -f "$best" ]; then
        best="$(find "$run" -maxdepth 1 -name 'G_[0-9]*.pth' ! -name G_0.pth 2>/dev/null | sort -V | tail -n 1)"
    fi
    if [ -z "$best" ]; then
        echo "There is no voice in $run yet."
        return
    fi
    files=("$best" "$run/config.json")
    if [ -f "$run/voice_range.json" ]; then files+=("$run/voice_range.json"); fi
    tar -cf "$archive.part" -- "${files[@]}"
    mv -f -- "$archive.part" "$archive"
    printf '\nThe best voice so far is %s; packed with its config:\n  scp THE_MACHINE:%q .\n' "$best" "$archive"
    printf '  svc infer -m %s -c %s/config.json -n SONG\n' "$best" "$run"
}

# ------------------------------------------------------------------------------------------------------ all of it
what="${1:-all}"
case "$what" in
-h | --help)
    usage
    exit 0
    ;;
all | fetch) ;;
*) die "unknown word $what; bash scripts/cloud_train.sh --help says what there is" ;;
esac
[ $# -le 1 ] || die "too many arguments; settings come from the environment, see --help"
case "$NAME" in '' | */* | .*) die "NAME=$NAME is not a name: letters, digits, - and _" ;; esac
case "$PORT" in '' | *[!0-9]*) die "PORT=$PORT is not a number" ;; esac
mkdir -p -- "$WORK" || die "cannot create WORK=$WORK"
WORK="$(cd -- "$WORK" && pwd)"
case "$VOICES" in /*) ;; *) VOICES="$PWD/$VOICES" ;; esac
cd -- "$WORK"
if [ "$what" = fetch ]; then
    fetch
    exit 0
fi
trap stop_board EXIT
set_up
prepare
status=0
train || status=$?
fetch
case "$status" in
0) echo "The training is done." ;;
129 | 130 | 143)
    echo "Stopped; everything is saved. The same command goes on."
    exit "$status"
    ;;
*) die "the training ended with status $status, see above; the same command goes on from the last checkpoint" ;;
esac
