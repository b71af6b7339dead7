#!/usr/bin/env bash
# From recordings of a voice to a song sung with it, in one command.
#
#   bash scripts/quickstart.sh                        a synthetic singer and song, made on the spot
#   bash scripts/quickstart.sh VOICE_FOLDER           your voice sings the synthetic song
#   bash scripts/quickstart.sh VOICE_FOLDER SONG      your voice sings your song
#
# VOICE_FOLDER holds audio files of one voice, or one sub-folder per voice. SONG is any audio file with one voice in it.
# Everything is installed into .venv the first time. Each command that runs is printed with a $ before it.
# The work lies in quickstart/ in the project. Run again, it goes on with the training, for example
#   QUICKSTART_STEPS=5000 QUICKSTART_MINUTES=30 bash scripts/quickstart.sh
#
# Settings, from the environment:
#   QUICKSTART_STEPS      training steps (default: 1500, with VOICE_FOLDER 6000)
#   QUICKSTART_MINUTES    longest time to train (default: 4.5, with VOICE_FOLDER 20)
#   QUICKSTART_SPEAKER    which voice sings, where there are several (default: demo_low, or the first)
#   QUICKSTART_TRANSPOSE  semitones added to the song (default: the octaves that suit the voice)
#   QUICKSTART_DIR        work folder (default: quickstart/demo, or quickstart/<name of VOICE_FOLDER>)
#   SVC_VENV, PYTHON      see scripts/venv.sh
set -euo pipefail
# shellcheck source=scripts/venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

usage() {
    sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
}

show() {
    printf '\n$'
    printf ' %q' "$@"
    printf '\n'
}

# Run a command of svc; print it first.
svc() {
    local status=0
    show svc "$@"
    "$VENV_BIN/svc" "$@" || status=$?
    if [ "$status" -ge 128 ]; then
        die "interrupted; the same command again goes on where it was"
    fi
    return "$status"
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

svc_strict() {
    svc "$@" || die "svc $1 failed, see above"
}

helper() {
    "$VENV_BIN/python" "$PROJECT/scripts/quickstart_helper.py" "$@"
}

absolute() {
    printf '%s/%s\n' "$(cd "$(dirname -- "$1")" && pwd)" "$(basename -- "$1")"
}

# ------------------------------------------------------------------------------------------------ arguments
case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
-*) die "unknown option $1; bash scripts/quickstart.sh --help says what there is" ;;
esac
[ $# -le 2 ] || die "too many arguments; give one folder of recordings and one song (names with spaces in quotes)"
voices="" song=""
if [ $# -ge 1 ]; then
    [ -e "$1" ] || die "there is no folder $1; give the folder with the recordings of the voice"
    [ -d "$1" ] || die "$1 is not a folder; give the folder with the recordings of the voice, then the song"
    [ -n "$(find "$1/" ! -type d -print 2>/dev/null | head -n 1)" ] ||
        die "$1 holds no file; put recordings of a voice there"
    voices="$(cd "$1" && pwd)"
fi
if [ $# -eq 2 ]; then
    [ -e "$2" ] || die "there is no song $2; give an audio file"
    [ -f "$2" ] || die "$2 is not a file; give one audio file as the song"
    [ -s "$2" ] || die "$2 is empty; give an audio file"
    song="$(absolute "$2")"
fi
if [ -z "$voices" ]; then
    name=demo steps=1500 minutes=4.5
else
    name="$(basename -- "$voices")" steps=6000 minutes=20
fi
steps="${QUICKSTART_STEPS:-$steps}"
minutes="${QUICKSTART_MINUTES:-$minutes}"
case "$steps" in '' | *[!0-9]* | 0) die "QUICKSTART_STEPS=$steps is not a number of steps" ;; esac
case "$minutes" in '' | *[!0-9.]* | 0 | *.*.*) die "QUICKSTART_MINUTES=$minutes is not a number of minutes" ;; esac
if [ -n "${QUICKSTART_DIR:-}" ]; then
    work="$QUICKSTART_DIR"
else
    # Another folder of the same name is another voice: it gets a work folder of its own.
    work="$PROJECT/quickstart/$name" number=2
    while [ -f "$work/voices.txt" ] && [ "$(cat "$work/voices.txt")" != "$voices" ]; do
        work="$PROJECT/quickstart/$name-$number"
        number=$((number + 1))
    done
fi
started=$SECONDS

# --------------------------------------------------------------------------------------------- installation
ensure_venv
installed=$SECONDS

# ------------------------------------------------------------------------------------------------ recordings
mkdir -p -- "$work" || die "cannot create the work folder $work; choose another with QUICKSTART_DIR"
cd -- "$work"
work="$PWD"
if [ -f voices.txt ] && [ "$(cat voices.txt)" != "$voices" ]; then
    die "$work is the work folder of other recordings ($(cat voices.txt)); choose another with QUICKSTART_DIR"
fi
printf '%s\n' "$voices" >voices.txt
printf '\nWorking in %s\n' "$work"
show cd "$work"
source_voice=""
if [ -z "$song" ]; then
    # The truth is written last: where it is, the demonstration is complete.
    if [ ! -f demo/song_f0.csv ]; then svc_strict demo demo; fi
    song="$work/demo/song.wav"
    source_voice=demo/dataset_raw/demo_high
fi
if [ -z "$voices" ]; then
    recordings=demo/dataset_raw
    speaker="$(helper speaker "$recordings" "${QUICKSTART_SPEAKER:-demo_low}")" || exit 2
    transpose="${QUICKSTART_TRANSPOSE:--12}"
else
    recordings=dataset_raw
    # Copies the recordings: short ones to dataset_raw/, long ones to long/ to be cut.
    helper collect "$voices" . || exit 2
    if [ -d long ] && [ ! -d dataset ]; then
        svc_lenient slice --in_dir long --out_dir dataset_raw
    fi
    speaker="$(helper speaker "$recordings" "${QUICKSTART_SPEAKER:-}")" || exit 2
    transpose="${QUICKSTART_TRANSPOSE:-}"
fi

# ------------------------------------------------------------------------------------------ from voice to song
svc_lenient resample --in_dir "$recordings"
svc_lenient preprocess --template template_quick.json --speech_encoder whisper-ppg-tiny --f0_predictor pm
svc_strict train -c configs/config.json -m quickstart --threads 1 --max_steps "$steps" --max_minutes "$minutes"
checkpoint="$(helper checkpoint logs/quickstart)" || exit 2
if [ -z "$transpose" ]; then
    transpose="$(helper octaves "$song" "dataset/44k/$speaker")" || exit 2
fi
svc_strict infer -m "$checkpoint" -c logs/quickstart/config.json -n "$song" -s "$speaker" \
    -t "$transpose" -f0p pm --output result.wav

# ---------------------------------------------------------------------------------------------------- figures
set -- "$song" result.wav --target "dataset/44k/$speaker"
if [ -n "$source_voice" ]; then set -- "$@" --source "$source_voice"; fi
svc_strict compare "$@" --transpose "$transpose" --png compare.png --json figures.json
printf '\nDone in %d s (installation %d s).\n' "$((SECONDS - started))" "$((installed - started))"
printf '  song     %s\n  result   %s\n  picture  %s\n  figures  %s\n' \
    "$song" "$work/result.wav" "$work/compare.png" "$work/figures.json"
printf '  %s, %s semitones\n' "$speaker" "$transpose"
helper summary figures.json
