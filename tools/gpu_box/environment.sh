# Sourced by the other scripts, in the root of the repository. All that has been received lies in $BOX.
BOX=${BOX:-/tmp/box}
PYTHON=${PYTHON:-python3}
OUT=$(mkdir -p "$1" && cd "$1" && pwd)
shift
for package in crds client kubernetes-client serving trainer-image operator tests; do
  [ "$package" = tests ] && path=$PWD/tests || path=$PWD/$package/src
  PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
done
# Before what the machine has: some of its packages may be older than ours ask for.
export PYTHONPATH=$PYTHONPATH:$BOX/site PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
# A program that fails or takes too long does not keep the next from running: its status is printed.
attempt() {
  limit=$1 name=$2
  shift 2
  began=$(date +%s)
  timeout -k 20 -s INT "$limit" "$@" >"$OUT/$name.log" 2>&1
  echo "$name: status $?, $(($(date +%s) - began)) s"
}
