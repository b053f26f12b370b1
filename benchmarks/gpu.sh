#!/usr/bin/env bash
# Everything that needs a GPU, in one command of under ten minutes: tests, timings, the solver. Needs torch and Triton, no network.
#   benchmarks/gpu.sh            on a GPU; JSON and logs under $OUT (default benchmarks/results/gpu), in $LIMIT seconds (560)
#   benchmarks/gpu.sh --dry-run  the same flow at toy sizes on a CPU, with Triton's interpreter
# Wheels in $WHEELS (pykeops, keopscore, beartype, POT) are installed beside the repository's path if there are any.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-benchmarks/results/gpu} PYTHON=${PYTHON:-python3} WHEELS=${WHEELS:-.whl} LIMIT=${LIMIT:-560}
DRY=${1:-} SECONDS=0
mkdir -p "$OUT"
rm -f "$OUT/tests.log"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

if compgen -G "$WHEELS/*.whl" >/dev/null; then
    site=$(mktemp -d)
    $PYTHON -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl && export PYTHONPATH=$PYTHONPATH:$site
fi

select=(-m "gpu or not slow" tests/test_halves.py tests/test_triton.py tests/test_keops.py)
if [ "$DRY" = --dry-run ]; then
    export TRITON_INTERPRET=1
    select+=(-k "halves or near_ties or TestUnavailable or scales")
fi
workers=()
$PYTHON -c "import xdist" 2>/dev/null && workers=(-n 8)

run_tests() {
    timeout $((LIMIT / 4)) $PYTHON -m pytest -q -o addopts= -o filterwarnings= -p no:cacheprovider "${workers[@]}" "$@" 2>&1 |
        tee -a "$OUT/tests.log" | tail -30
    return "${PIPESTATUS[0]}"
}

# the timings' kernels are compiled while the tests run: all of it is waited for before anything is timed
for method in triton "product + top-k, compiled" "the same in TF32" keops; do
    timeout $((LIMIT / 4)) $PYTHON -m benchmarks.gpu --warm "$method" --seconds $((LIMIT / 5)) ${DRY:+--dry-run} >>"$OUT/warm.log" 2>&1 &
done
run_tests "${select[@]}"
tests=$?
[ "$DRY" = --dry-run ] || run_tests -m gpu tests/test_extension.py tests/test_aeotgan.py || tests=1
wait
echo "tests ended with $tests after $SECONDS s"

left=$((LIMIT - SECONDS))
timeout $left $PYTHON -m benchmarks.gpu --seconds $((left - 40)) --out "$OUT" ${DRY:+--dry-run} 2>&1 | tee "$OUT/gpu.log"
times=${PIPESTATUS[0]}
echo "tests ended with $tests, timings with $times, after $SECONDS s; results in $OUT"
exit $((tests || times))
