#!/bin/sh
# receive.sh OUT: phase 0, after each copy of the repository that carries pieces of .gpu-run/. Keeps the pieces in $BOX,
# unpacks the packages and rows, and makes the base's folder when all of its pieces are there.
. "$(dirname "$0")/environment.sh"

mkdir -p "$BOX"
cp .gpu-run/*/* "$BOX"/
if [ ! -d "$BOX/site" ] && [ -f "$BOX/site.tar.xz" ]; then
  mkdir "$BOX/site"
  tar -xJf "$BOX/site.tar.xz" -C "$BOX/site"
fi
[ -d "$BOX/rows" ] || { [ -f "$BOX/rows.tar" ] && mkdir "$BOX/rows" && tar -xf "$BOX/rows.tar" -C "$BOX/rows"; }
pieces=$(cat "$BOX/base.pieces" 2>/dev/null || echo 0)
here=$(ls "$BOX"/base.gguf.* 2>/dev/null | wc -l)
if [ ! -d "$BOX/base" ] && [ "$pieces" -gt 0 ] && [ "$here" -eq "$pieces" ]; then
  cat "$BOX"/base.gguf.* >"$BOX/base.gguf"
  attempt 150 convert "$PYTHON" tools/smollm2.py --gguf "$BOX/base.gguf" --out "$BOX/base"
  [ -d "$BOX/base" ] || tail -5 "$OUT/convert.log"
fi
echo "packages: $(ls "$BOX/site" 2>/dev/null | wc -l) names; rows: $(ls "$BOX/rows" 2>/dev/null | wc -l) tasks;" \
  "base: $here of $pieces pieces, $([ -d "$BOX/base" ] && echo made || echo 'not made')"
