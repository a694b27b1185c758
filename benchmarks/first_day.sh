#!/usr/bin/env bash
# The first minutes on a GPU, in two calls from the repository's root:
#
#   bash benchmarks/first_day.sh 1      at most 9 minutes: is it right, then how long it takes
#   bash benchmarks/first_day.sh 2      at most 4 minutes: the trainer, compute-sanitizer, Nsight Compute
#
# Each part has a time limit of its own, and one that fails does not cost the others. Everything they write
# is packed into $OUT/first_day_CALL.tgz (OUT: this folder, if unset) after each part. Names after the number
# of the call select parts: bash benchmarks/first_day.sh 1 correct tests
# A rehearsal without a GPU: TINYUNET_BACKEND=cuda-emulated bash benchmarks/first_day.sh 1
set -uo pipefail
call=${1:-1}
only=" ${*:2} "
back=${OUT:-$PWD}
work=$(mktemp -d)
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} TINYUNET_BACKEND=${TINYUNET_BACKEND:-cuda}
if [ "$TINYUNET_BACKEND" = cuda ]; then tiny="" slower=1; else tiny=--tiny slower=10; fi
failed=0

part() {  # part SECONDS LINES NAME COMMAND…: run with a limit, show the last lines, pack
    local limit=$(($1 * slower)) lines=$2 name=$3 start=$SECONDS status
    shift 3
    [ "$only" = "  " ] || [[ $only == *" $name "* ]] || return 0
    echo "=== $name (at most $limit s)"
    timeout -k 5 "$limit" "$@" >"$work/$name.log" 2>&1
    status=$?
    tail -n "$lines" "$work/$name.log"
    echo "--- $name: exit $status after $((SECONDS - start)) s, $SECONDS s in all"
    tar -czf "$back/first_day_$call.tgz" -C "$work" .
    [ $status -eq 0 ] || failed=1
}

day() { python3 -m benchmarks.first_day "$@" $tiny --out "$work"; }
export -f day
export work tiny
GPU_TESTS="tests/backend tests/kernels tests/ops tests/nn tests/sampling tests/prediction/test_tiling_cuda.py
           tests/training/test_trainer_cuda.py"

case $call in
1)
    if [ "$TINYUNET_BACKEND" = cuda ]; then
        nvidia-smi --query-gpu=name,driver_version,memory.free,clocks.sm --format=csv
    fi
    part 60 4 versions python3 -c "
import numpy, numba, cupy, torch, tinyunet
print('numpy', numpy.__version__, 'numba', numba.__version__, 'cupy', cupy.__version__, 'torch', torch.__version__)
tinyunet.use_backend('$TINYUNET_BACKEND')
print('the backend $TINYUNET_BACKEND can run')"
    part 90 30 correct bash -c 'day correct'
    part 60 60 profile bash -c 'day profile'
    part 200 40 tests python3 -m pytest -m gpu $GPU_TESTS -q -n 8 -p no:cacheprovider --tb=short \
        --deselect tests/kernels/test_sanitizer.py --durations=5
    part 90 40 networks bash -c 'day networks'
    part 150 90 layers bash -c 'day layers'
    ;;
2)
    part 60 6 train bash -c 'day train'
    if [ "$TINYUNET_BACKEND" = cuda ]; then
        export TINYUNET_SANITIZER_SECONDS=70
        export TINYUNET_SANITIZER_TESTS='tensor_cores_compute or conv2d_of_several or winograd_of'
        for tool in memcheck racecheck; do
            part 80 12 $tool python3 -m pytest -m gpu tests/kernels/test_sanitizer.py -q -k "clean and $tool" \
                -p no:cacheprovider
        done
        kernels='regex:conv2d_(forward_tensor|backward_weight_tensor|winograd_multiply|backward_bias)'
        part 60 40 ncu ncu --clock-control none --set full -k "$kernels" --launch-skip 40 --launch-count 8 \
            --csv --page details python3 -m benchmarks.first_day profile --out "$work"
    fi
    ;;
*)
    echo "first_day.sh: call $call is unknown; give 1 or 2" >&2
    exit 2
    ;;
esac
echo "wrote $back/first_day_$call.tgz"
exit $failed
