# Functions for the steps of scenarios (bash reads this file through BASH_ENV).

# state NAME WANTED: wait until the container's status is WANTED.
state() {
    local now
    for _ in $(seq 150); do
        now=$(docker inspect -f '{{.State.Status}}' "$1" 2>&1)
        [ "$now" = "$2" ] && return 0
        sleep 0.1
    done
    echo "$1 is $now, not $2" >&2
    return 1
}

# eventually COMMAND...: until it succeeds; its output is that of the last try.
eventually() {
    local out
    for _ in $(seq 100); do
        if out=$("$@" 2>&1); then
            [ -z "$out" ] || printf '%s\n' "$out"
            return 0
        fi
        sleep 0.1
    done
    printf '%s\n' "$out" >&2
    return 1
}

# api METHOD PATH [JSON]: a request as an SDK sends it; the status on the first line, the body after it.
api() {
    python3 -I - "$SOCKET" "$@" <<'END'
import http.client, socket, sys

class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(sys.argv[1])

link = Unix("docker")
method, path, *body = sys.argv[2:]
link.request(method, "/v1.24" + path, body[0] if body else None, {"Content-Type": "application/json"} if body else {})
answer = link.getresponse()
data = answer.read().decode(errors="replace")
print(answer.status, file=sys.stderr)
print(data.rstrip("\n"))
END
}
