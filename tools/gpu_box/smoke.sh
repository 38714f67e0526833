#!/bin/sh
# smoke.sh OUT [cpu]: a step on the device, and whole runs of a tiny model with three tasks.
. "$(dirname "$0")/environment.sh"
device=${1:-cuda}

attempt 60 step "$PYTHON" - "$device" <<'P'
import sys
import torch, transformers, peft, numpy, psutil
import multitask_operator, multitask_trainer

device = sys.argv[1]
layer = torch.nn.Linear(512, 512, device=device)
with torch.autocast(device, torch.bfloat16):
    layer(torch.randn(64, 512, device=device)).square().mean().backward()
print(torch.__version__, transformers.__version__, peft.__version__, numpy.__version__)
print(torch.cuda.get_device_name() if device == "cuda" else "cpu", float(layer.weight.grad.norm()))
print(psutil.cpu_count(), "cores,", psutil.virtual_memory().available >> 30, "GiB free")
P
tail -4 "$OUT/step.log"
attempt 120 tiny "$PYTHON" tests/benchmarks/evidence.py --data "$BOX/rows" --base builtin://tiny --device "$device" \
  --workdir "$BOX/smoke" --tasks tweet_irony sst5 e2e_nlg --arms three-stage cgc --steps 6 --batch-rows 8 --rank 6 \
  --train-rows 100 --validation-rows 16 --test-rows 30 --generation-test-rows 10 --seeds 1 --baseline-seeds 1 \
  --minutes 1 --out "$OUT/tiny.md"
grep -A3 '^| arm' "$OUT/tiny.md" || { sed -n '/Not finished/,/^## /p' "$OUT/tiny.md"; grep -h FAILED "$BOX"/smoke/*.log; }
