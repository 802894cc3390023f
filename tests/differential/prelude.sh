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

# dockerfile LINE...: make c/Dockerfile of these lines, on busybox and with a label of the scenario (so that no other
# scenario's steps are in its cache) unless they begin with FROM, ARG or a comment.
dockerfile() {
    mkdir -p c
    case "$1" in
        FROM* | ARG* | \#*) printf '%s\n' "$@" ;;
        *) printf '%s\n' "FROM busybox" "LABEL scenario=$N" "$@" ;;
    esac >c/Dockerfile
}

# build ARG...: docker build of c, without what it says of the containers of steps (we make fewer).
build() {
    local code
    DOCKER_BUILDKIT=0 docker build "$@" c 2>build.err | grep -v -e ' ---> Running in' -e '^Removing intermediate' \
        -e '^Sending build context'
    code=${PIPESTATUS[0]}
    grep -v -e DEPRECATED -e 'BuildKit is currently' -e environment-variable -e '^$' build.err >&2
    return "$code"
}

# made IMAGE: its configuration, history and the content of its layers but the lowest, as JSON.
made() {
    docker save "$1" -o made.tar && python3 -I - made.tar "$@" <<'END'
import hashlib, io, json, sys, tarfile

with tarfile.open(sys.argv[1]) as archive:
    (entry,) = json.load(archive.extractfile("manifest.json"))
    document = json.load(archive.extractfile(entry["Config"]))
    layers = []
    for name in entry["Layers"][1:]:
        with tarfile.open(fileobj=io.BytesIO(archive.extractfile(name).read())) as layer:
            found = {}
            for member in layer:
                data = layer.extractfile(member) if member.isfile() or member.islnk() else None
                text = hashlib.sha256(data.read()).hexdigest()[:8] + "#" if data else member.linkname
                kind = "file" if data else {b"5": "dir", b"2": "link"}.get(member.type, member.type.decode())
                marks = ".wh." in member.name
                found[member.name.rstrip("/")] = "mark" if marks else f"{kind} {member.mode & 0o7777:o} {member.uid}:{member.gid} {text}"
            layers.append(found)
config = {key: value for key, value in document["config"].items() if value and key not in ("Image", "Hostname")}
history = [[item.get("created_by"), item.get("comment"), item.get("author"), bool(item.get("empty_layer"))] for item in document["history"]]
print(json.dumps({"config": config, "author": document.get("author") or "", "os": document["os"], "history": history, "layers": layers}))
END
}

# swarm: the engine is a swarm of its own, if it was in none.
swarm() {
    docker swarm init --advertise-addr 127.0.0.1 >/dev/null 2>&1
    eventually docker node ls
}

# tasks SERVICE STATE COUNT: wait until so many of the service's tasks are in the state.
tasks() {
    local now
    for _ in $(seq 150); do
        now=$(docker service ps --format '{{.CurrentState}}' "$1" 2>&1 | grep -ci "^$2 ")
        [ "$now" = "$3" ] && return 0
        sleep 0.1
    done
    docker service ps --no-trunc "$1" >&2
    return 1
}

# update SERVICE STATE: wait until its update is in the state.
update() {
    eventually sh -c '[ "$(docker service inspect --format "{{.UpdateStatus.State}}" $0)" = $1 ]' "$1" "$2"
}

# plain COMMAND...: without the words that dockerd's errors bring along from its own parts, and without ids in errors.
plain() {
    local words='s/rpc error: code = [A-Za-z]* desc = //; s/([a-z0-9]\{25\})/(id)/'
    "$@" >out 2>err
    local code=$?
    sed "$words" out
    sed "$words" err >&2
    return $code
}

# tree IMAGE: every name below its root with kind, mode, owner and content, as JSON; not what an engine puts there itself.
tree() {
    local made
    made=$(docker create "$1" none) && docker export "$made" >tree.tar && docker rm "$made" >/dev/null &&
        python3 -I - tree.tar <<'END'
import hashlib, json, sys, tarfile

engine = {".dockerenv", "dev/console", "dev/pts", "dev/shm", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab"}
found = {}
with tarfile.open(sys.argv[1]) as archive:
    for member in archive:
        name = member.name.rstrip("/")
        if name in engine:
            continue
        data = archive.extractfile(member) if member.isfile() or member.islnk() else None
        text = hashlib.sha256(data.read()).hexdigest()[:8] + "#" if data else member.linkname
        kind = "file" if data else {b"5": "dir", b"2": "link"}.get(member.type, member.type.decode())
        found[name] = f"{kind} {member.mode & 0o7777:o} {member.uid}:{member.gid} {text}"
print(json.dumps(found))
END
}
