#!/bin/sh
# get_uv.sh PYTHON VERSION FOLDER: puts the installer uv into FOLDER/bin/uv, by the first way that this machine allows.
set -eu
python=$1 version=$2 folder=$3

if [ -n "${SSL_CERT_FILE:-}" ]; then  # uv reads it; pip of Python 3.11 and 3.12 does not
  export PIP_CERT="${PIP_CERT:-$SSL_CERT_FILE}"
fi

rm -rf "$folder"
if "$python" -m venv "$folder" >/dev/null 2>&1; then
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$version"
elif "$python" -m pip --version >/dev/null 2>&1; then  # Debian without python3-venv
  "$python" -m pip install --quiet --disable-pip-version-check --target "$folder" "uv==$version"
elif command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then
  mkdir -p "$folder/bin"
  ln -s "$(command -v uv)" "$folder/bin/uv"
else
  echo "get_uv: $python has neither venv nor pip, and there is no uv (Debian: apt install python3-venv)" >&2
  exit 1
fi
"$folder/bin/uv" --version
