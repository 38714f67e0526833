#!/bin/sh
# speed.sh OUT [SECONDS] [cpu]: phase 1, at most SECONDS and a third more. Tokens a second and memory of our training
# step, against HF Trainer + PEFT, and of CGC-LoRA against LoRA.
. "$(dirname "$0")/environment.sh"
seconds=${1:-240} device=${2:-cuda}

if [ "$device" = cuda ]; then
  small='--bases smollm2,0.5b,1.5b --rows short' adapters='--dtype bf16 --widths 576,896,1536 --layers 24 --rows 32 --tokens 128'
else
  small='--bases tiny --steps 2 --warmup 1' adapters='--widths 96 --rounds 3'
fi
# shellcheck disable=SC2086 - lists of arguments
attempt "$seconds" training_speed "$PYTHON" tests/benchmarks/training_speed.py --out "$OUT" --device "$device" $small
# shellcheck disable=SC2086
attempt $((seconds / 3)) adapter_step "$PYTHON" tests/benchmarks/adapter_step.py --device "$device" $adapters
tail -15 "$OUT/training_speed.log" "$OUT/adapter_step.log"
