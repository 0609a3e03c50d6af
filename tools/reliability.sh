#!/usr/bin/env bash
# Tries many times what docs/reliability.md promises, one line a part: its name, how often, how many failed, seconds.
#
#   tools/reliability.sh [--small] [--kills N] [--examples N] [--only PART,PART] [--list] [pytest arguments]
#
# Parts: kills    a training is killed at random moments, and at every point of the writer of checkpoints
#        input    the rows of bad input, one mistake each
#        ranks    two processes, one of which dies, stops, fails or finds no object
#        fuzz     random bytes and values for every reader
#        numbers  values that are not finite, put in at each place of a step
#        disk     a disk that is full, read-only or refuses
#        hostile  files that want to run code, leave their folder or take memory
#        endings  every other way in which a command ends
#
#   --kills     how often a training is killed; default 300, half of them from its start on, half in the loop
#   --examples  random cases for each test of `fuzz`; default 10000
#   --small     2 kills, 100 examples, and of methods and endings those of every test run
#   --only      these parts alone.          --list   says what would run.
#
# What is counted is kills and examples where a test tells them, else tests. Exits with 1 if anything failed; the output
# of a part that failed stays, and its place is printed.
set -uo pipefail
cd "$(dirname "$0")/.."

only="" list=no kills=300 tried=10000 all=(SSOD_ALL_ENDINGS=1)
while [ $# -gt 0 ]; do
    case $1 in
        --only) only=,$2, && shift ;;
        --kills) kills=$2 && shift ;;
        --examples) tried=$2 && shift ;;
        --small) kills=2 tried=100 all=() ;;
        --list) list=yes ;;
        --help) sed -n '2,/^set /p' "$0" | sed -e '$d' -e 's/^# \{0,1\}//' && exit 0 ;;
        *) break ;;
    esac
    shift
done
given=("$@") work=$(mktemp -d) failed=0
trap 'rmdir "$work" 2>/dev/null || true' EXIT # what failed has left its output
times=$(((tried + 99) / 100))                # tests/amount.py multiplies, and readers are tried 100 times

# sum PATTERN FILE: of the first number in each match
sum() { grep -oE "$1" "$2" | grep -oE '[0-9]+' | awk '{n += $1} END {print n + 0}'; }

# part NAME [VARIABLE=VALUE...] -- PYTEST-ARGUMENTS
part() {
    local name=$1 log=$work/$1.log begin=$SECONDS code=0 env=() last passed bad often
    shift
    [ -z "$only" ] || [[ $only == *,$name,* ]] || return 0
    while [ "$1" != -- ]; do env+=("$1") && shift; done
    shift
    if [ $list = yes ]; then echo "$name: ${env[*]} $*" && return 0; fi
    env ${env[@]+"${env[@]}"} python -m pytest -q -s -p no:cacheprovider --timeout=86400 \
        --hypothesis-show-statistics "$@" ${given[@]+"${given[@]}"} >"$log" 2>&1 || code=$?
    last=$(grep -E '^=* ?[0-9]+ (passed|failed|skipped|error|deselected).* in [0-9.]+s' "$log" | tail -1)
    passed=$(sum '[0-9]+ passed' <(echo "$last")) bad=$(sum '[0-9]+ (failed|errors?)' <(echo "$last"))
    often="$((passed + bad)) tests"
    case $name in
        kills) often="$(sum 'killed [0-9]+ times' "$log") kills, $often" ;;
        fuzz) often="$(sum '[0-9]+ passing' "$log") examples, $often" ;;
    esac
    printf '%-8s %s, %s failed, %s s\n' "$name" "$often" "$bad" $((SECONDS - begin))
    if [ $code -ne 0 ]; then
        failed=1
        echo "         exit code $code; see $log"
        grep -E '^(FAILED|ERROR) ' "$log" | cut -c1-110 | sed 's/^/         /'
    else
        rm "$log"
    fi
}

part kills SSOD_KILLS=$(((kills + 1) / 2)) ${all[@]+"${all[@]}"} -- tests/test_crash.py tests/engine/test_resume.py \
    tests/engine/test_checkpoint.py tests/inference/test_killed.py -k "not disk"
part input -- tests/data/test_corpus.py tests/data/test_corpus_folders.py tests/core tests/test_fixes.py \
    tests/test_wrong_kinds.py tests/test_undefined.py tests/test_refused_early.py
part ranks ${all[@]+"${all[@]}"} -- tests/utils/test_distributed.py tests/test_ranks.py tests/test_endings.py \
    tests/test_one_rank_without_boxes.py -k "rank or distributed"
part fuzz SSOD_TEST_EXAMPLES=$times -- tests/data/test_fuzz.py tests/inference/test_strange_models.py \
    tests/engine/test_strange_checkpoints.py tests/experiments/test_strange_runs.py
part numbers -- tests/engine/test_guard.py tests/engine/test_roll_back.py
part disk ${all[@]+"${all[@]}"} -- tests/engine/test_checkpoint.py tests/engine/test_run_dir.py tests/engine/test_log.py \
    tests/inference/test_output_dir.py tests/inference/test_killed.py tests/utils/test_atomic.py tests/test_endings.py \
    -k "disk or room or atomic or cannot or refuses"
part hostile -- tests/data/test_outside.py tests/data/test_paths.py tests/core/test_plain_text.py \
    tests/core/test_yaml_io.py tests/utils/test_model_file.py tests/detectors/test_weights.py
part endings ${all[@]+"${all[@]}"} -- tests/test_endings.py tests/engine/test_stop.py tests/data/test_loader.py \
    -k "not rank and not room and not disk"
exit $failed
