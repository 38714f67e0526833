#!/bin/sh
# speed.sh OUT [SECONDS [cuda|cpu [OPTION …]]]: phase 1, at most SECONDS and two thirds more. Tokens a second and memory of
# our training step, against HF Trainer + PEFT, of CGC-LoRA against LoRA, and of packed rows with a mask
# against varlen attention. OPTIONs are those of training_speed.py.
. "$(dirname "$0")/environment.sh"
seconds=${1:-240} device=${2:-cuda}
[ $# -lt 2 ] && shift $# || shift 2

if [ "$device" = cuda ]; then
  small='--bases 0.5b,1.5b,7b,smollm2 --rows short --seconds-each 12' adapters='--dtype bf16 --widths 2048,3584 --layers 8 --rank 16 --rows 16 --tokens 256'
  attention='--bases 0.5b,1.5b --steps 8'
else
  small='--bases tiny --batch-rows 8 --trainer-rows 4 --steps 1 --warmup 1' adapters='--widths 96 --rounds 2'
  attention='--bases tiny --rows short --batch-rows 8 --steps 1 --warmup 1'
fi
# shellcheck disable=SC2086 - lists of arguments
attempt "$seconds" training_speed "$PYTHON" tests/benchmarks/training_speed.py --out "$OUT" --device "$device" $small "$@"
# shellcheck disable=SC2086
attempt $((seconds / 3)) adapter_step "$PYTHON" tests/benchmarks/adapter_step.py --device "$device" $adapters
# shellcheck disable=SC2086
attempt $((seconds / 3)) packed_attention "$PYTHON" tests/benchmarks/packed_attention.py --device "$device" $attention
tail -n 15 "$OUT/training_speed.log"
tail -n 8 "$OUT/adapter_step.log"
tail -n 8 "$OUT/packed_attention.log"
