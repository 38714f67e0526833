#!/bin/sh
# baselines.sh OUT [SECONDS [cuda|cpu [OPTION …]]]: eight LoRA baselines one after the other, side by side, and together
# in one process, in at most SECONDS. OPTIONs are those of baselines_together.py.
. "$(dirname "$0")/environment.sh"
seconds=${1:-420} device=${2:-cuda}
[ $# -lt 2 ] && shift $# || shift 2

if [ "$device" = cuda ]; then
  small="--base file://$BOX/base --precision bf16 --steps 100 --rows 100 --threads 8 --processes 4"
else
  small='--steps 4 --rows 20'
fi
# shellcheck disable=SC2086 - a list of arguments
attempt "$seconds" baselines "$PYTHON" tests/benchmarks/baselines_together.py --out "$BOX/baselines" --device "$device" $small "$@"
cp "$BOX/baselines/page.md" "$OUT/baselines.md" 2>/dev/null
tail -n 8 "$OUT/baselines.log"
