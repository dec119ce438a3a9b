#!/bin/bash
# Runs inside the container that tests/systemd/run boots, as a unit of its systemd: drives the service through its unit as a
# person would, and writes to /results what it found. `passed` is written last, and only if nothing failed.
set -u
exec >/results/log 2>&1
date >/results/booted

readonly URL=http://127.0.0.1:1121
readonly TARGET="$URL/api/images/?shoe_id=7"
readonly DEADLINE=60

fail() {
    echo "FAILED: $*"
    systemctl status canvas-cluster --no-pager -l | tail -n 30
    journalctl -u canvas-cluster --no-pager -n 60
    echo "$*" >/results/failed
    systemctl poweroff
    exit 1
}
step() { printf '\n== %s\n' "$*"; }
wait_until() {
    local what=$1 end=$((SECONDS + DEADLINE))
    shift
    until "$@"; do
        ((SECONDS < end)) || fail "waited $DEADLINE s in vain for: $what"
        sleep 0.1
    done
}
property() { systemctl show canvas-cluster --property="$1" --value; }
master() { property MainPID; }
workers() { pgrep --parent "$(master)" | sort | tr '\n' ' '; }
answers() { curl -sS --fail --max-time 20 -o /dev/null "$TARGET"; }
ctl() { canvas-cluster ctl "$@"; }
generation() { ctl status --json | sed 's/.*"generation":\([0-9]*\),"uptime.*/\1/'; }
all_ready() { ctl status | head -n 1 | grep -q "$1 of $1 workers ready"; }

# Clients that open a connection for each request. What goes wrong is one line in /results/failures.
start_load() {
    rm -f /results/over /results/failures /results/answered.*
    local client
    for client in 1 2 3; do
        while [[ ! -e /results/over ]]; do
            if answers; then echo >>"/results/answered.$client"; else echo "curl ended with $?" >>/results/failures; fi
        done 2>>/results/curl &
    done
    wait_for_load
}
answered() { cat /results/answered.* 2>/dev/null | wc -l; }
load_goes_on() { (($(answered) >= $1)); }
wait_for_load() { wait_until "more answers" load_goes_on "$(($(answered) + 20))"; }
stop_load() {
    wait_for_load
    touch /results/over
    wait
    [[ ! -e /results/failures ]] || fail "$1: $(sort /results/failures | uniq -c | tr '\n' ';') $(tail -n 3 /results/curl)"
    echo "$(answered) answers, none missing"
}

step "what this machine lets a service have"
systemd-run --quiet --wait -p DynamicUser=yes -p StateDirectory=probe -p ProtectSystem=strict -p PrivateDevices=yes \
    -p PrivateMounts=yes -p ProtectProc=invisible -p SystemCallFilter=@system-service -p RestrictNamespaces=yes \
    -p AmbientCapabilities=CAP_NET_BIND_SERVICE /bin/true || {
    echo "a service in the container can't be confined" >/results/cannot
    systemctl poweroff
    exit 1
}

step "start"
systemctl start canvas-cluster || fail "the service does not start"
answers || fail "no answer after the start"
[[ $(property StatusText) == "2/2 workers ready, "*" req/s, generation 1" ]] || fail "the status is '$(property StatusText)'"
[[ $(property NFileDescriptorStore) == 2 ]] || fail "systemd keeps $(property NFileDescriptorStore) sockets"
ctl status || fail "root can't ask for the status"
[[ $(stat -Lc %a /run/canvas-cluster) == 700 ]] || fail "the control socket's folder is open to others"

step "reload under load"
before=$(workers)
start_load
systemctl reload canvas-cluster || fail "a reload fails"
stop_load "a reload loses requests"
[[ $(generation) == 2 ]] || fail "the generation is $(generation)"
[[ $(workers) != "$before" ]] || fail "the reload has replaced no worker"

step "a wrong configuration"
before=$(workers)
echo 'wrokers = 3' >/etc/canvas-cluster.toml
systemctl reload canvas-cluster && fail "systemctl reload takes a wrong configuration for a good one"
[[ $(workers) == "$before" ]] || fail "a refused reload has cost a worker"
: >/etc/canvas-cluster.toml
systemctl reload canvas-cluster || fail "a mended configuration is refused"

step "a first worker that fails"
wait_until "the old workers to leave" bash -c "canvas-cluster ctl status | grep -q serving"
before=$(workers)
echo 'access_log = "/nowhere/access.log"' >/etc/canvas-cluster.toml
systemctl reload canvas-cluster && fail "systemctl reload succeeds with workers that don't start"
[[ $(workers) == "$before" ]] || fail "a reload that was taken back has cost a worker"
[[ $(property StatusText) == *"last reload failed"* ]] || fail "the status is '$(property StatusText)'"
: >/etc/canvas-cluster.toml
systemctl reload canvas-cluster || fail "a mended configuration is refused"

step "a worker is killed"
wait_until "the old workers to leave" bash -c "canvas-cluster ctl status | grep -q serving"
main=$(master)
victim=$(pgrep --parent "$main" | head -n 1)
kill -KILL "$victim"
replaced() { [[ " $(workers)" != *" $victim "* ]] && all_ready 2; }
wait_until "the worker to be replaced" replaced
[[ $(master) == "$main" && $(property NRestarts) == 0 ]] || fail "a dead worker has cost the service"

step "restart under load"
main=$(master)
start_load
systemctl restart canvas-cluster || fail "a restart fails"
stop_load "a restart refuses clients"
[[ $(master) != "$main" ]] || fail "the master is the same"
[[ $(property NFileDescriptorStore) == 2 ]] || fail "systemd keeps $(property NFileDescriptorStore) sockets"

step "the master is killed"
main=$(master)
kill -KILL "$main"
# Nobody is refused: who comes before the next master waits for it.
answers || fail "a client is refused while the service starts again"
[[ $(master) != "$main" && $(property NRestarts) == 1 ]] || fail "the service was restarted $(property NRestarts) times"

step "the master stands still"
main=$(master)
kill -STOP "$main"
restarted() { [[ $(property NRestarts) == 2 && $(property ActiveState) == active ]]; }
wait_until "the watchdog to act" restarted
journalctl -u canvas-cluster --no-pager | grep -q "Watchdog timeout" || fail "it was not the watchdog"
answers || fail "no answer after the watchdog's restart"

step "scale and stop by ctl"
ctl scale 3 --wait || fail "can't scale"
[[ $(property NFileDescriptorStore) == 3 ]] || fail "systemd keeps $(property NFileDescriptorStore) sockets"
ctl stop --wait || fail "can't stop"
gone() { [[ $(property ActiveState) == inactive ]]; }
wait_until "the service to be inactive" gone
[[ $(property Result) == success ]] || fail "the result is $(property Result)"

step "stop"
systemctl start canvas-cluster || fail "it does not start again"
systemctl stop canvas-cluster || fail "it does not stop"
[[ $(property Result) == success ]] || fail "the result is $(property Result)"
pgrep -x canvas-cluster && fail "processes are left"
curl -sS --max-time 5 "$URL/healthz" && fail "somebody listens on"
[[ ! -e /run/canvas-cluster ]] || fail "the runtime directory is left"

step "socket activation"
systemctl start canvas-cluster.socket || fail "the socket unit does not start"
answers || fail "the first connection does not start the service"
systemctl is-active canvas-cluster || fail "the service is not active"
start_load
systemctl restart canvas-cluster || fail "a restart with the socket unit fails"
stop_load "a restart with the socket unit refuses clients"
systemctl stop canvas-cluster.socket canvas-cluster || fail "they do not stop"

step "what it may do"
systemd-analyze security --no-pager canvas-cluster | tail -n 1
systemd-analyze security --threshold=18 canvas-cluster >/dev/null || fail "the exposure is above 1.8"

step "done"
echo passed >/results/passed
systemctl poweroff
