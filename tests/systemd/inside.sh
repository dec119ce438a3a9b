#!/bin/bash
# Runs inside the container that tests/systemd/run boots, as a unit of its systemd: installs the packages, and drives the service
# through its unit as a person would. Writes to /results what it found; `passed` is written last, and only if nothing failed.
set -u
exec >/results/log 2>&1
date >/results/booted

readonly ADDRESS=127.0.0.1 PORT=1121
readonly TARGET="/api/images/?shoe_id=7"
readonly URL="http://$ADDRESS:$PORT"
readonly CONFIGURATION=/etc/canvas-cluster/canvas-cluster.toml
readonly PROGRAM=/usr/bin/canvas-cluster
readonly WORKERS=2
readonly TOKEN=a-token-of-the-test-0123456789
readonly DEADLINE=60

fail() {
    echo "FAILED: $*"
    systemctl status canvas-cluster --no-pager -l | tail -n 30
    journalctl -u canvas-cluster --no-pager -n 60
    echo "$*" >/results/failed
    systemctl poweroff
    exit 1
}
step() {
    printf '\n== %s\n' "$*"
    step_began=$(date +%s.%6N)
}
# Whether the journal has a line like this since the step began.
told() {
    journalctl --sync
    journalctl --quiet -u canvas-cluster --since="@$step_began" --output=cat | grep -q -- "$1"
}
told_or_fail() { told "$1" || fail "the journal does not tell: $1"; }
wait_until() {
    local what=$1 end=$((SECONDS + DEADLINE))
    shift
    until "$@"; do
        ((SECONDS < end)) || fail "waited $DEADLINE s in vain for: $what"
        sleep 0.1
    done
}
property() { systemctl show canvas-cluster --property="$1" --value; }
property_is() { [[ $(property "$1") == "$2" ]]; }
master() { property MainPID; }
same_run() { [[ $(master) == "$1" ]] && property_is NRestarts 0; }
workers() { pgrep --parent "$(master)" | sort | tr '\n' ' '; }
answers() { curl -sS --fail --max-time 20 -o /dev/null "$URL$TARGET"; }
# Stores a row; the status of the answer.
write() {
    curl -sS --max-time 20 -o /dev/null -w '%{http_code}' "$@" \
        -H 'Content-Type: application/json' --data '{"shoe_id": 7}' "$URL/api/images/"
}
ctl() { canvas-cluster ctl "$@"; }
generation() { ctl status --json | sed 's/.*"generation":\([0-9]*\),"uptime.*/\1/'; }
all_ready() { ctl status | head -n 1 | grep -q "$1 of $1 workers ready"; }
# A reload's old workers may still be finishing when the new ones serve.
only_new_workers() { [[ $(workers | wc -w) == "$WORKERS" ]]; }
configure() { printf 'workers = %s\n%s\n' "$WORKERS" "${1:-}" >$CONFIGURATION; }
runs_what_is_installed() { [[ $(stat -Lc %d:%i "/proc/$(master)/exe") == "$(stat -Lc %d:%i $PROGRAM)" ]]; }
version() { dpkg-query --show --showformat='${Version}' canvas-cluster; }

# Clients that keep connections and clients that open one for each request, from here to stop_load.
start_load() {
    rm -f /results/over /results/tally
    echo 0 >/results/answered
    load $ADDRESS $PORT "$TARGET" /results &
    load_pid=$!
    wait_for_load
}
load_goes_on() { (($(cat /results/answered) >= $1)); }
wait_for_load() { wait_until "more answers" load_goes_on "$(($(cat /results/answered) + 100))"; }
# Ends them; at most so many requests may have failed.
stop_load() {
    local most=${1:-0} sent failed retried p99 slowest
    wait_for_load
    touch /results/over
    wait "$load_pid" || fail "the clients ended with $?"
    read -r sent failed retried p99 slowest </results/tally
    printf '   requests: %s sent, %s failed' "$sent" "$failed"
    if ((most > 0)); then printf ' (%s may)' "$most"; fi
    if ((retried > 0)); then printf ', %s idle connections closed' "$retried"; fi
    printf ', p99 %s ms, slowest %s ms\n' "$p99" "$slowest"
    ((failed <= most)) || fail "requests were lost: $(cut -d' ' -f2- /results/failures | sort | uniq -c | tr '\n' ';')"
}
# Each of the six clients has one request in flight, which may have been accepted by the process that is killed.
readonly IN_FLIGHT=6

systemctl --version | head -n 1
step "what this machine lets a service have"
systemd-run --quiet --wait -p DynamicUser=yes -p StateDirectory=probe -p ProtectSystem=strict -p PrivateDevices=yes \
    -p PrivateMounts=yes -p ProtectProc=invisible -p SystemCallFilter=@system-service -p RestrictNamespaces=yes \
    -p AmbientCapabilities=CAP_NET_BIND_SERVICE /bin/true || {
    echo "a service in the container can't be confined" >/results/cannot
    systemctl poweroff
    exit 1
}

step "the package is installed"
dpkg --install /packages/first.deb || fail "the package can't be installed"
[[ $(systemctl is-enabled canvas-cluster) == disabled ]] || fail "the service is enabled before anybody has configured it"
property_is ActiveState inactive || fail "the service is started before anybody has configured it"
getent passwd canvas-cluster | grep -q ':/usr/sbin/nologin$' || fail "there is no user, or one that can log in"
[[ $(stat -c '%U %G %a' $CONFIGURATION) == "root canvas-cluster 640" ]] || fail "the configuration is $(stat -c '%U %G %a' $CONFIGURATION)"
CANVAS_CONFIG=$CONFIGURATION canvas-cluster check || fail "the configuration that comes with it is wrong"
# The watchdog's time is one that the test can wait for.
mkdir /etc/systemd/system/canvas-cluster.service.d
printf '[Service]\nWatchdogSec=15\n' >/etc/systemd/system/canvas-cluster.service.d/test.conf
systemctl daemon-reload

step "start"
configure
systemctl enable --now canvas-cluster || fail "the service does not start"
answers || fail "no answer after the start"
[[ $(property StatusText) == "2/2 workers ready, "*" req/s, generation 1" ]] || fail "the status is '$(property StatusText)'"
property_is NFileDescriptorStore 2 || fail "systemd keeps $(property NFileDescriptorStore) sockets"
property_is KillMode mixed || fail "TERM would go to workers as well: KillMode is $(property KillMode)"
property_is OOMPolicy continue || fail "a worker that is killed for its memory would end the service: OOMPolicy is $(property OOMPolicy)"
ctl status || fail "root can't ask for the status"
[[ $(stat -c '%U %a' /run/canvas-cluster) == "canvas-cluster 700" ]] || fail "the control socket's folder is open to others"
[[ $(stat -c '%U %a' /var/lib/canvas-cluster) == "canvas-cluster 700" ]] || fail "the state is not the service's own"
for process in $(master) $(workers); do
    [[ $(stat -c %U "/proc/$process") == canvas-cluster ]] || fail "process $process runs as $(stat -c %U "/proc/$process")"
    grep -Eq '^Cap(Inh|Prm|Eff|Bnd|Amb):[[:space:]]*0*[^0[:space:]]' "/proc/$process/status" && fail "process $process has capabilities"
done

step "a quiet time"
start_load
wait_for_load
wait_for_load
stop_load

step "reload under load"
before=$(workers)
start_load
systemctl reload canvas-cluster || fail "a reload fails"
stop_load
[[ $(generation) == 2 ]] || fail "the generation is $(generation)"
[[ $(workers) != "$before" ]] || fail "the reload has replaced no worker"
told_or_fail "replacing workers one by one"

step "a wrong configuration"
wait_until "the old workers to leave" only_new_workers
before=$(workers)
start_load
configure 'wrokers = 3'
systemctl reload canvas-cluster && fail "systemctl reload takes a wrong configuration for a good one"
told_or_fail "wrokers in $CONFIGURATION: no such setting"
[[ $(workers) == "$before" ]] || fail "a refused reload has cost a worker"
configure
systemctl reload canvas-cluster || fail "a mended configuration is refused"
stop_load

step "a first worker that fails"
wait_until "the old workers to leave" only_new_workers
before=$(workers)
start_load
configure 'access_log = "/nowhere/access.log"'
systemctl reload canvas-cluster && fail "systemctl reload succeeds with workers that don't start"
told_or_fail "/nowhere/access.log"
[[ $(workers) == "$before" ]] || fail "a reload that was taken back has cost a worker"
[[ $(property StatusText) == *"last reload failed"* ]] || fail "the status is '$(property StatusText)'"
configure
systemctl reload canvas-cluster || fail "a mended configuration is refused"
stop_load

step "a worker is killed under load"
wait_until "the old workers to leave" only_new_workers
main=$(master)
victim=$(pgrep --parent "$main" | head -n 1)
start_load
kill -KILL "$victim"
replaced() { [[ " $(workers)" != *" $victim "* ]] && all_ready $WORKERS; }
wait_until "the worker to be replaced" replaced
stop_load $IN_FLIGHT
same_run "$main" || fail "a dead worker has cost the service"
told_or_fail "$victim"

step "restart under load"
main=$(master)
start_load
systemctl restart canvas-cluster || fail "a restart fails"
stop_load
[[ $(master) != "$main" ]] || fail "the master is the same"
property_is NFileDescriptorStore 2 || fail "systemd keeps $(property NFileDescriptorStore) sockets"
told_or_fail "Stopped"

step "the package is upgraded under load"
main=$(master)
before=$(workers)
was=$(generation)
start_load
dpkg --install /packages/newer.deb 2>/results/complaints || fail "the upgrade fails: $(cat /results/complaints)"
stop_load
[[ ! -s /results/complaints ]] || fail "the upgrade complains: $(cat /results/complaints)"
[[ $(version) == *+newer ]] || fail "version $(version) is installed"
same_run "$main" || fail "the upgrade has restarted the service"
runs_what_is_installed || fail "the old program serves on"
[[ $(generation) -gt $was ]] || fail "the generation is still $was"
[[ $(workers) != "$before" ]] || fail "the upgrade has replaced no worker"
property_is ActiveState active || fail "the unit is $(property ActiveState)"
grep -q "^workers = $WORKERS" $CONFIGURATION || fail "the upgrade has replaced the configuration"
told_or_fail "upgrading: checking $PROGRAM"

step "an upgrade to a program that does not run"
wait_until "the old workers to leave" only_new_workers
before=$(workers)
start_load
dpkg --install /packages/broken.deb 2>/results/complaints || fail "the installation itself fails: $(cat /results/complaints)"
grep -q "the running server refuses the new version" /results/complaints || fail "nobody is told: $(cat /results/complaints)"
[[ $(master) == "$main" && $(workers) == "$before" ]] || fail "a refused upgrade has cost a process"
property_is ActiveState active || fail "the unit is $(property ActiveState)"
told_or_fail "upgrade to $PROGRAM refused"
dpkg --install /packages/newest.deb 2>/results/complaints || fail "the upgrade after it fails: $(cat /results/complaints)"
stop_load
[[ ! -s /results/complaints ]] || fail "the upgrade after it complains: $(cat /results/complaints)"
same_run "$main" || fail "the upgrade after it has restarted the service"
runs_what_is_installed || fail "the upgrade after it did not happen"

step "the master is killed under load"
main=$(master)
start_load
kill -KILL "$main"
another() { property_is NRestarts 1 && property_is ActiveState active; }
wait_until "another master" another
# Who comes before the next master waits for it; the workers go with the old one.
stop_load $((IN_FLIGHT * WORKERS))
[[ $(master) != "$main" ]] || fail "the master is the same"

step "the master stands still under load"
main=$(master)
start_load
kill -STOP "$main"
restarted() { property_is NRestarts 2 && property_is ActiveState active; }
wait_until "the watchdog to act" restarted
stop_load $((IN_FLIGHT * WORKERS))
told_or_fail "Watchdog timeout"

step "scale and stop by ctl"
ctl scale 3 --wait || fail "can't scale"
property_is NFileDescriptorStore 3 || fail "systemd keeps $(property NFileDescriptorStore) sockets"
ctl stop --wait || fail "can't stop"
wait_until "the service to be inactive" property_is ActiveState inactive
property_is Result success || fail "the result is $(property Result)"

step "stop"
systemctl start canvas-cluster || fail "it does not start again"
systemctl stop canvas-cluster || fail "it does not stop"
property_is Result success || fail "the result is $(property Result)"
pgrep -x canvas-cluster && fail "processes are left"
curl -sS --max-time 5 "$URL/healthz" && fail "somebody listens on"
[[ ! -e /run/canvas-cluster ]] || fail "the runtime directory is left"
told_or_fail "stopped after"

step "a port below 1024"
configure 'listen = "127.0.0.1:80"'
systemctl start canvas-cluster && fail "a service without capabilities listens on port 80"
systemctl stop canvas-cluster
# The lines that the unit has in comments.
sed -n '/^#CapabilityBoundingSet=/s/^#//p; /^#AmbientCapabilities=/s/^#//p; /^#SystemCallFilter=/s/^#//p; /^\[Service\]/p' \
    /usr/lib/systemd/system/canvas-cluster.service >/etc/systemd/system/canvas-cluster.service.d/port.conf
[[ $(wc -l </etc/systemd/system/canvas-cluster.service.d/port.conf) == 4 ]] || fail "the unit has not the three lines"
systemctl daemon-reload
systemctl start canvas-cluster || fail "it can't listen on port 80"
curl -sS --fail --max-time 20 -o /dev/null http://127.0.0.1/healthz || fail "no answer on port 80"
for worker in $(workers); do
    grep -Eq '^Cap(Inh|Prm|Eff|Amb):[[:space:]]*0*[^0[:space:]]' "/proc/$worker/status" && fail "worker $worker has capabilities"
done
systemctl stop canvas-cluster
rm /etc/systemd/system/canvas-cluster.service.d/port.conf
systemctl daemon-reload
configure

step "a write token that systemd passes"
# As the unit has it in a comment. The file is root's alone; the service has a copy of its own.
printf '%s\n' "$TOKEN" >/etc/canvas-cluster/write-token
chmod 600 /etc/canvas-cluster/write-token
sed -n '/^#LoadCredential=write-token:/s/^#//p; /^\[Service\]/p' \
    /usr/lib/systemd/system/canvas-cluster.service >/etc/systemd/system/canvas-cluster.service.d/token.conf
[[ $(wc -l </etc/systemd/system/canvas-cluster.service.d/token.conf) == 2 ]] || fail "the unit has no line for a write token"
systemctl daemon-reload
systemctl start canvas-cluster || fail "it does not start with a credential"
[[ $(write) == 401 ]] || fail "a write without the token is answered $(write)"
[[ $(write -H "Authorization: Bearer $TOKEN") == 201 ]] || fail "a write with the token is answered otherwise than with 201"
told "$TOKEN" && fail "the journal holds the token"

step "a public address, by a reload under load, and a restart"
# Nobody may write to a public address without the token, which no command but the service sees.
start_load
configure 'listen = "0.0.0.0:1121"'
systemctl reload canvas-cluster || fail "a reload to a wider address fails"
# Who comes in the moment in which a socket of an address is closed for good is reset.
stop_load $((IN_FLIGHT * WORKERS))
start_load
systemctl restart canvas-cluster || fail "a restart on the wider address fails"
systemctl reload canvas-cluster || fail "a reload with a token that systemd passes fails"
stop_load
start_load
configure
systemctl restart canvas-cluster || fail "a restart to the narrower address fails, beside the sockets that are kept"
stop_load $((IN_FLIGHT * WORKERS))
property_is NFileDescriptorStore 2 || fail "systemd keeps $(property NFileDescriptorStore) sockets"
[[ $(write) == 401 ]] || fail "a write without the token is answered $(write)"
systemctl stop canvas-cluster
rm /etc/systemd/system/canvas-cluster.service.d/token.conf /etc/canvas-cluster/write-token
systemctl daemon-reload

step "socket activation, and a restart under load"
systemctl start canvas-cluster.socket || fail "the socket unit does not start"
answers || fail "the first connection does not start the service"
# The first worker may answer before the last one is ready.
wait_until "the service to be active" property_is ActiveState active
start_load
systemctl restart canvas-cluster || fail "a restart with the socket unit fails"
stop_load
systemctl stop canvas-cluster.socket canvas-cluster || fail "they do not stop"

step "without its configuration file"
mv $CONFIGURATION /root/
systemctl start canvas-cluster || fail "it does not start with the defaults"
mv /root/canvas-cluster.toml $CONFIGURATION

step "what it may do"
# The option --threshold is younger than systemd 247.
exposure=$(systemd-analyze security --no-pager canvas-cluster | tail -n 1)
echo "$exposure"
echo "$exposure" | awk '{ found = match($0, /: [0-9.]+ /); exit !(found && substr($0, RSTART + 2) + 0 <= 1.5) }' ||
    fail "the exposure is above 1.5: $exposure"

step "the package is removed, and purged"
dpkg --remove canvas-cluster || fail "the package can't be removed"
pgrep -x canvas-cluster && fail "processes are left"
[[ ! -e $PROGRAM && ! -e /etc/systemd/system/multi-user.target.wants/canvas-cluster.service ]] || fail "it is still there, or enabled"
[[ -e $CONFIGURATION && -e /var/lib/canvas-cluster ]] || fail "removal has taken configuration or state"
dpkg --purge canvas-cluster || fail "the package can't be purged"
[[ ! -e /etc/canvas-cluster && ! -e /var/lib/canvas-cluster && ! -e /var/log/canvas-cluster ]] || fail "purging leaves something"
[[ ! -e /etc/security/limits.d/60-canvas-cluster.conf ]] || fail "purging leaves limits"
systemctl cat canvas-cluster 2>/dev/null | grep -q ExecStart && fail "systemd still knows the unit"

# Debian's rpm wants to be told that dpkg's packages are not its business; so are the dependencies, of which its database knows none.
rpm_here() { rpm --force-debian --nodeps "$@" 2>/results/complaints || fail "rpm $1: $(cat /results/complaints)"; }

step "the .rpm is installed"
rpm_here --install /packages/first.rpm
[[ $(systemctl is-enabled canvas-cluster) == disabled ]] || fail "the service is enabled before anybody has configured it"
property_is ActiveState inactive || fail "the service is started before anybody has configured it"
[[ $(stat -c '%U %G %a' $CONFIGURATION) == "root canvas-cluster 640" ]] || fail "the configuration is $(stat -c '%U %G %a' $CONFIGURATION)"
configure
systemctl enable --now canvas-cluster || fail "the service does not start"
answers || fail "no answer after the start"

step "the .rpm is upgraded under load"
main=$(master)
was=$(generation)
before=$(workers)
start_load
rpm_here --upgrade /packages/newer.rpm
stop_load
[[ ! -s /results/complaints ]] || fail "the upgrade complains: $(cat /results/complaints)"
[[ $(rpm --query --queryformat '%{RELEASE}' canvas-cluster) == 2 ]] || fail "release $(rpm --query canvas-cluster) is installed"
same_run "$main" || fail "the upgrade has restarted the service"
runs_what_is_installed || fail "the old program serves on"
[[ $(generation) -gt $was ]] || fail "the generation is still $was"
[[ $(workers) != "$before" ]] || fail "the upgrade has replaced no worker"
[[ $(systemctl is-enabled canvas-cluster) == enabled ]] || fail "the upgrade has disabled the service"
grep -q "^workers = $WORKERS" $CONFIGURATION || fail "the upgrade has replaced the configuration"

step "the .rpm is erased"
rpm_here --erase canvas-cluster
pgrep -x canvas-cluster && fail "processes are left"
[[ ! -e $PROGRAM && ! -e /etc/systemd/system/multi-user.target.wants/canvas-cluster.service ]] || fail "it is still there, or enabled"
[[ -e $CONFIGURATION.rpmsave && -e /var/lib/canvas-cluster ]] || fail "removal has taken configuration or state"

step "done"
echo passed >/results/passed
systemctl poweroff
