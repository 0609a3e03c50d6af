#!/usr/bin/env bash
# Runs the tests as other machines would, one line a variant: its name, how many passed and failed, seconds.
#
#   tools/test_matrix.sh [--only NAME,NAME] [--torch floor|newest|VERSION]... [--venvs FOLDER] [--load] [--list]
#                        [pytest arguments]
#
# Variants: the machine as it is (own); torch, oneDNN and MKL kept from newer instructions; more threads; last bits that
# differ (rounding-*, see tests/rounding.py); another order of tests (shuffled). What this machine lacks, or what would
# be the same as own, is said and left out.
#
#   --torch   also with another torch and its torchvision: the oldest that setup.cfg allows, pip's newest, or a version.
#             Each gets an environment of its own (5 GB where torch comes with CUDA).
#   --venvs   where these environments are made, and found again; default: a temporary folder, removed at the end.
#   --load    also own beside two busy loops a core.
#   --only    these variants alone.          --list   says what would run.
#
# Exits with 1 if any test of any variant failed. The output of a variant that failed stays, and its place is printed.
set -uo pipefail
cd "$(dirname "$0")/.."

only="" venvs="" load=no list=no torches=()
while [ $# -gt 0 ]; do
    case $1 in
        --only) only=,$2, && shift ;;
        --torch) torches+=("$2") && shift ;;
        --venvs) venvs=$2 && shift ;;
        --load) load=yes ;;
        --list) list=yes ;;
        --help) sed -n '2,/^set /p' "$0" | sed -e '$d' -e 's/^# \{0,1\}//' && exit 0 ;;
        *) break ;;
    esac
    shift
done
given=("$@")
work=$(mktemp -d)
busy=() failed=0
finish() {
    [ ${#busy[@]} -eq 0 ] || kill "${busy[@]}" 2>/dev/null
    rm -rf "$work/venvs"
    rmdir "$work" 2>/dev/null || true # what failed has left its output
}
trap finish EXIT
trap 'exit 130' INT TERM

wanted() { [ -z "$only" ] || [[ $only == *,$1,* ]]; }
line() { printf '%-18s %s\n' "$1" "$2"; }

# variant NAME PYTHON [VARIABLE=VALUE...]
variant() {
    local name=$1 python=$2 log=$work/$1.log begin=$SECONDS code=0 summary good bad
    shift 2
    wanted "$name" || return 0
    if [ $list = yes ]; then line "$name" "$*" && return 0; fi
    env "$@" "$python" -m pytest -q -n 2 --dist worksteal -p no:cacheprovider ${given[@]+"${given[@]}"} \
        >"$log" 2>&1 || code=$?
    summary=$(grep -E '^=* ?[0-9]+ (passed|failed|skipped|error|xfailed|deselected).* in [0-9.]+s' "$log" | tail -1)
    good=$(count "$summary" passed) bad=$(count "$summary" failed 'errors?')
    line "$name" "$good passed  $bad failed  $((SECONDS - begin)) s"
    if [ $code -ne 0 ]; then
        failed=1
        line "" "exit code $code; see $log"
        grep -E '^(FAILED|ERROR) ' "$log" | cut -c1-110 | sed 's/^/                   /'
    else
        rm "$log"
    fi
}

# count SUMMARY WORD...: the sum of the numbers before these words
count() {
    local summary=$1 sum=0 word number
    shift
    for word in "$@"; do
        number=$(grep -oE "[0-9]+ $word\b" <<<"$summary" | grep -oE '^[0-9]+')
        sum=$((sum + ${number:-0}))
    done
    echo $sum
}

left_out() { line "$1" "left out: $2"; }
ask() { python -c "import torch; print($1)"; }
capability() { ask 'torch.backends.cpu.get_cpu_capability()'; }

variant own python
own=""
for name in default avx2; do
    wanted aten-$name || continue
    own=${own:-$(capability)}
    if [ "$(ATEN_CPU_CAPABILITY=$name capability)" = "$own" ]; then
        left_out aten-$name "torch uses $own here with and without it"
    else
        variant aten-$name python ATEN_CPU_CAPABILITY=$name
    fi
done
for isa in SSE41 AVX2; do
    name=onednn-$(tr '[:upper:]' '[:lower:]' <<<"$isa")
    wanted "$name" || continue
    own=${own:-$(capability)}
    case $own-$isa in
        AVX512-* | AVX2-SSE41) variant "$name" python ONEDNN_MAX_CPU_ISA=$isa ;;
        *) left_out "$name" "torch uses $own here" ;;
    esac
done
if wanted mkl-compatible; then
    if [ "$(ask 'torch.backends.mkl.is_available()')" = True ]; then
        variant mkl-compatible python MKL_CBWR=COMPATIBLE
    else
        left_out mkl-compatible "this torch is built without MKL"
    fi
fi
for threads in 2 4; do # passive: on few cores, threads that wait in a loop keep those that work from working
    variant threads-$threads python SSOD_TEST_THREADS=$threads OMP_WAIT_POLICY=passive
done
for seed in 1 2 3; do
    variant rounding-$seed python SSOD_TEST_ROUNDING=$seed
done
variant shuffled python SSOD_TEST_SHUFFLE=1

for release in ${torches[@]+"${torches[@]}"}; do
    wanted "torch-$release" || continue
    case $release in
        floor) package="torch==$(sed -n 's/^ *torch>=//p' setup.cfg).*" ;;
        newest) package=torch ;;
        *) package="torch==$release" ;;
    esac
    venv=${venvs:-$work/venvs}/torch-$release
    if [ $list = no ] && [ ! -x "$venv/bin/pytest" ]; then
        python -m venv "$venv" && "$venv/bin/pip" install -q "$package" torchvision -e ".[test]" || {
            line "torch-$release" "0 passed  1 failed  it could not be installed" && failed=1 && continue
        }
    fi
    variant "torch-$release" "$venv/bin/python" PATH="$venv/bin:$PATH"
done

if [ $load = yes ] && wanted loaded; then
    if [ $list = no ]; then
        for _ in $(seq $((2 * $(getconf _NPROCESSORS_ONLN)))); do
            nice sh -c 'while :; do :; done' &
            busy+=($!)
        done
    fi
    variant loaded python
fi
exit $failed
