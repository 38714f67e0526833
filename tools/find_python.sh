#!/bin/sh
# Prints the path of a Python 3.11 or 3.12 that runs. Names on PATH are tried by running them: a version manager's shim
# may exist for a version that is not installed. One whose shared library is at hand comes first, because Triton's
# Python backend loads it.
set -eu

check='
import ctypes, sys, sysconfig, venv
sys.version_info[:2] in ((3, 11), (3, 12)) or sys.exit(1)
if sys.argv[1] == "shared":
    name = sysconfig.get_config_var("INSTSONAME") or ""
    ".so" in name or sys.exit(1)
    try:
        ctypes.CDLL(name)
    except OSError:
        ctypes.CDLL(sysconfig.get_config_var("LIBDIR") + "/" + name)
print(sys.executable)
'

for want in shared any; do
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3 python \
    "$HOME"/.pyenv/versions/3.11.*/bin/python "$HOME"/.pyenv/versions/3.12.*/bin/python \
    /usr/bin/python3.11 /usr/bin/python3.12 /usr/local/bin/python3.11 /usr/local/bin/python3.12; do
    [ -n "$candidate" ] || continue
    if found=$("$candidate" -c "$check" "$want" 2>/dev/null); then
      [ "$want" = shared ] || echo "find_python: $found has no libpython; Triton will not start with it (Debian: apt install libpython3.11)" >&2
      echo "$found"
      exit 0
    fi
  done
done
echo "find_python: no working Python 3.11 or 3.12; install one, or say which: make setup PYTHON=/path/to/python3.11" >&2
exit 1
