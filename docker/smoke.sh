#!/usr/bin/env bash
# Brings the cpu profile up, posts a crystal, kills the worker, posts again, checks what the containers may do, and
# takes everything down. It is a project of its own (deepergatgnn-smoke), on a free port: one that runs is not touched.
#
#   docker/smoke.sh                     needs Docker Engine with compose on Linux, curl and python3
#   COMPOSE="..." docker/smoke.sh       another compose command, for example podman-compose
#   BUILD=0 docker/smoke.sh             with the images that are there
#   MODEL_STORE_DIR=... STRUCTURE=...   another store, another CIF file
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra compose <<<"${COMPOSE:-docker compose}"
python=${PYTHON:-python3}
examples=(examples/*.cif)
structure=${STRUCTURE:-${examples[0]}}
export PORT=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
export DEEPERGATGNN_HOST=127.0.0.1 DEEPERGATGNN_API_KEYS= DEEPERGATGNN_API_KEYS_FILE= DEEPERGATGNN_ALLOWED_HOSTS=
url=http://127.0.0.1:$PORT
answer=$(mktemp)

in_project() { "${compose[@]}" -p deepergatgnn-smoke --profile cpu "$@"; }
inside() { in_project exec -T "$@"; }
say() { printf '== %s\n' "$*"; }
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

finish() {
  local status=$?
  trap - EXIT
  if ((status)); then in_project logs --tail 40 >&2 || true; fi
  say "down"
  in_project down -v >&2 || status=1
  rm -f "$answer"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# readyz STATUS SECONDS: wait until /readyz answers with STATUS
readyz() {
  local status=000 end=$((SECONDS + $2))
  while ((SECONDS < end)); do
    status=$(curl --noproxy '*' --silent --max-time 3 --output /dev/null --write-out '%{http_code}' "$url/readyz" || true)
    [[ $status == "$1" ]] && return
    sleep 1
  done
  fail "/readyz says $status, not $1, after $2 s"
}

predict() {
  curl --noproxy '*' --silent --show-error --fail-with-body --max-time 40 --output "$answer" \
    --data-binary "@$structure" -H 'Content-Type: chemical/x-cif' "$url/predict" || fail "$(cat "$answer")"
  "$python" - "$answer" <<'PYTHON' || fail "the answer is not right: $(cat "$answer")"
import json, math, sys

with open(sys.argv[1], encoding="utf-8") as file:
    answer = json.load(file)
assert answer["predictions"], "no prediction"
for prediction in answer["predictions"]:
    weights = [atom["weight"] for atom in prediction["attention"]]
    assert len(weights) == answer["n_atoms"] and min(weights) >= 0, weights
    assert math.isclose(sum(weights), 1, abs_tol=1e-5), sum(weights)
    assert math.isfinite(prediction["value"]), prediction["value"]
    print(f"   {answer['formula']}: {prediction['property']} = {prediction['value']:.3f} {prediction['unit']}")
latencies = answer["latency_ms"]
parts = [latencies[phase] for phase in ("parse", "graph", "queue", "inference")]
assert min(parts) >= 0 and sum(parts) <= latencies["total"] + 0.1, latencies
print("   latency_ms", latencies)
PYTHON
}

[[ -f $structure ]] || fail "no such file: $structure"
if [[ ${BUILD:-1} == 1 ]]; then
  say "build"
  in_project build
fi

say "up"
in_project up -d
readyz 200 180
say "predict $structure"
predict

say "the containers"
inside api python -c 'import sys
from importlib.util import find_spec
sys.exit("the API image holds torch" if find_spec("torch") else 0)'
inside worker python -c 'import torch; print("   worker has torch", torch.__version__)'
for service in broker api worker; do
  # of the main process, not of this one: real, effective, saved and file-system user
  [[ $(inside "$service" grep '^Uid:' /proc/1/status) =~ Uid:[[:space:]]+[1-9] ]] || fail "$service runs as root"
  [[ $(inside "$service" grep '^CapEff:' /proc/1/status) =~ CapEff:[[:space:]]+0+([^0-9a-f]|$) ]] ||
    fail "$service has capabilities"
  if inside "$service" touch /probe 2>/dev/null; then fail "$service can write to its root file system"; fi
done
for service in broker worker; do # one line: the header, so no route to anywhere
  [[ $(inside "$service" grep -c . /proc/net/route) =~ ^1[^0-9]*$ ]] || fail "$service has a network"
done
inside broker redis-cli -s /data/broker.sock ping >/dev/null
inside api python -m deepergatgnn.service.operations.healthcheck api
inside worker python -m deepergatgnn.service.operations.healthcheck worker
"$python" - "$PORT" <<'PYTHON'
import socket, sys

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing: it only finds this host's address
    try:
        probe.connect(("192.0.2.1", 9))
        address = probe.getsockname()[0]
    except OSError:
        sys.exit(0)
with socket.socket() as client:
    client.settimeout(3)
    if not address.startswith("127.") and client.connect_ex((address, int(sys.argv[1]))) == 0:
        sys.exit(f"the API listens on {address}")
PYTHON
status=$(curl --noproxy '*' --silent --max-time 5 --output /dev/null --write-out '%{http_code}' -H 'Host: page.example' "$url/models")
[[ $status == 421 ]] || fail "the API answers to any name: $status"
if inside api touch /keys/probe 2>/dev/null; then fail "api can write to the folder of keys"; fi
if inside api touch /models/probe 2>/dev/null; then fail "api can write to the model store"; fi
if inside worker touch /models/probe 2>/dev/null; then fail "worker can write to the model store"; fi
echo "   no torch in the API; no root, no capabilities, read-only; nothing beyond loopback"

say "kill the worker"
in_project kill -s SIGKILL worker
readyz 503 30
say "start it again"
in_project up -d
readyz 200 120
predict

say "passed"
