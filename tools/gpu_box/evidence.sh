#!/bin/sh
# evidence.sh OUT MINUTES [OPTION …]: phase 2. Baselines and arms on the base; OPTIONs are those of evidence.py. After
# MINUTES no arm begins, and at most two and a half minutes later there is a page of what is finished.
. "$(dirname "$0")/environment.sh"
minutes=$1
shift

command -v nvidia-smi >/dev/null && {
  nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader -l 5 >"$OUT/gpu.csv" 2>&1 &
  watcher=$!
}
attempt $((minutes * 60 + 150)) evidence "$PYTHON" tests/benchmarks/evidence.py --data "$BOX/rows" --base "$BOX/base" \
  --device cuda --minutes "$minutes" --workdir "$BOX/evidence" --out "$OUT/evidence.md" --json "$OUT/evidence.json" "$@"
[ -z "${watcher:-}" ] || kill "$watcher"
for log in "$BOX"/evidence/*.log; do
  echo "== $log"
  grep -E '^(done|FAILED|stopped)' "$log"
done >"$OUT/stages.txt"
grep FAILED "$OUT/stages.txt" | head -5
cat "$OUT/evidence.md" 2>/dev/null || tail -20 "$OUT/evidence.log"
