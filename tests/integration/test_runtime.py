"""The runtime on a real kernel: crun, zygote and monitors, with nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from api.errors import Conflict, InvalidArgument, NotFound
from tests.integration import containerlab
from tests.integration.containerlab import Bench, collect, output
from worker.engine.logs.reader import read_logs
from worker.engine.parts import ProcessIO
from worker.engine.runtime import frames, spec
from worker.engine.runtime.peers import MAX_SPILL

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return containerlab.busybox_root(tmp_path_factory.mktemp("root"))


@pytest_asyncio.fixture
async def bench(root: Path) -> AsyncIterator[Bench]:
    containerlab.enter()
    directory = Path(tempfile.mkdtemp(prefix="runtime-"))
    made = Bench(directory, root)
    await made.runtime.open()
    yield made
    left = []
    for container_id in await made.runtime.known():
        left.append(container_id)
        await made.runtime.delete(container_id)
    await made.runtime.close()
    try:
        assert not left, "containers are left"
        assert not list((directory / "run/m").iterdir()), "monitor directories are left"
        await wait_for(lambda: not monitors(directory), "monitors to leave")
        cgroups = [path for cid in made.ids for path in Path("/sys/fs/cgroup").glob(f"*/shoal/{cid}")]
        assert not cgroups, "cgroups are left"
    finally:
        shutil.rmtree(directory)


def monitors(directory: Path) -> list[int]:
    """Processes whose plan is in `directory`: forked from its zygote, so they hold one of its sockets' paths."""
    needle = os.fsencode(directory)
    found = []
    for line in Path("/proc/net/unix").read_bytes().splitlines():
        if needle in line:
            found.append(1)
    return found


async def wait_for(condition, what: str, seconds: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


async def test_every_byte_before_and_after_start_reaches_attacher_log_and_exit_file(bench: Bench) -> None:
    cid, process = await bench.create(["sh", "-c", "echo out; echo err >&2; printf tail; exit 3"])
    found = await output(process, bench.runtime, cid)
    assert found == {1: b"out\ntail", 2: b"err\n"}
    ended = await process.wait()
    assert (ended.code, ended.oom, ended.error) == (3, False, "")
    entries = [json.loads(line) for line in bench.log(cid).read_text().splitlines()]
    assert sorted((entry["stream"], entry["log"]) for entry in entries) == [
        ("stderr", "err\n"),
        ("stdout", "out\n"),
        ("stdout", "tail"),
    ]
    assert json.loads(bench.exit_file(cid).read_text())["code"] == 3
    assert abs(ended.at_ns - time.time_ns()) < 60e9
    await bench.runtime.delete(cid)
    await bench.runtime.delete(cid)  # idempotent


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["nope"], 'exec: "nope": executable file not found in $PATH'),
        (["/nope/nope"], 'exec: "/nope/nope": no such file or directory'),
        (["/etc/notexec"], 'exec: "/etc/notexec": permission denied'),
        (["/etc"], "permission denied"),
    ],
)
async def test_a_command_that_cannot_run_fails_at_create_in_dockers_words(
    bench: Bench, args: list[str], text: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await bench.create(args)
    assert text in caught.value.message
    assert await bench.runtime.known() == []


async def test_a_created_container_is_removed_without_having_run(bench: Bench) -> None:
    cid, process = await bench.create(["sh", "-c", "echo never"])
    assert await bench.runtime.known() == [cid]
    await bench.runtime.delete(cid)
    assert (await process.wait()).code == 128 + signal.SIGKILL
    assert bench.log(cid).read_text() == ""


async def test_signals_reach_the_process_and_name_its_exit_code(bench: Bench) -> None:
    script = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    cid, process = await bench.create(["sh", "-c", script])
    stream = await process.attach()
    await bench.runtime.start(cid)
    items = aiter(stream)
    assert await anext(items) == (1, b"ready\n")
    await bench.runtime.kill(cid, signal.SIGTERM)
    assert (await process.wait()).code == 5
    with pytest.raises(NotFound):
        await bench.runtime.kill(cid, signal.SIGKILL)
    await bench.runtime.delete(cid)
    await stream.close()


async def test_killed_by_a_signal_is_128_plus_its_number(bench: Bench) -> None:
    cid, process = await bench.create(["sleep", "60"])
    await bench.runtime.start(cid)
    await bench.runtime.kill(cid, signal.SIGKILL)
    assert (await process.wait()).code == 137
    with pytest.raises(Conflict):
        await process.attach()
    await bench.runtime.delete(cid)


async def test_half_close_ends_stdin_and_late_output_still_comes(bench: Bench) -> None:
    cid, process = await bench.create(["sh", "-c", "cat; echo late"], io={"stdin": True, "stdin_once": True})
    stream = await process.attach()
    await bench.runtime.start(cid)
    payload = os.urandom(3_000_000)
    await stream.write(payload)
    await stream.close_stdin()
    found = await collect(stream)
    assert found[1] == payload + b"late\n"
    assert (await process.wait()).code == 0
    await bench.runtime.delete(cid)


async def test_without_stdin_once_a_client_that_leaves_does_not_end_stdin(bench: Bench) -> None:
    cid, process = await bench.create(["cat"], io={"stdin": True})
    first = await process.attach()
    await bench.runtime.start(cid)
    await first.write(b"one")
    await first.close_stdin()
    items = aiter(first)
    assert await anext(items) == (1, b"one")
    await first.close()
    second = await process.attach()
    await second.write(b"two")
    assert await anext(aiter(second)) == (1, b"two")
    await second.close()
    await bench.runtime.delete(cid)


async def test_stdin_once_ends_when_the_client_that_gave_it_detaches(bench: Bench) -> None:
    cid, process = await bench.create(["cat"], io={"stdin": True, "stdin_once": True})
    stream = await process.attach()
    await bench.runtime.start(cid)
    await stream.write(b"x")
    await stream.close()
    async with asyncio.timeout(10):
        assert (await process.wait()).code == 0
    await bench.runtime.delete(cid)


async def test_a_terminal_has_its_size_before_the_first_byte_and_follows_resizes(bench: Bench) -> None:
    script = "stty size; read _; stty size; exit 7"
    cid, process = await bench.create(["sh", "-c", script], io={"tty": True, "stdin": True})
    stream = await process.attach()
    await process.resize(33, 44)
    await bench.runtime.start(cid)
    items = aiter(stream)
    seen = b""
    while b"33 44" not in seen:
        number, data = await anext(items)
        assert number == 1
        seen += data
    await process.resize(50, 120)
    await stream.write(b"\n")
    rest = (await collect(stream))[1]
    assert b"50 120" in rest
    assert (await process.wait()).code == 7
    await bench.runtime.delete(cid)


async def test_exec_runs_in_the_same_container_and_loses_no_early_byte(bench: Bench) -> None:
    cid, _ = await bench.create(["sleep", "60"])
    await bench.runtime.start(cid)
    for _ in range(5):
        process = await bench.exec(cid, ["sh", "-c", "echo early; hostname; cat; exit 9"], stdin=True)
        stream = await process.attach()
        await stream.write(b"given")
        await stream.close_stdin()
        assert (await collect(stream))[1] == b"early\nbox\ngiven"
        assert (await process.wait()).code == 9
    with pytest.raises(InvalidArgument, match="executable file not found"):
        await bench.exec(cid, ["nope"])
    await bench.runtime.delete(cid)
    with pytest.raises(NotFound):
        await bench.exec(cid, ["true"])


async def test_a_detached_exec_ends_though_nobody_reads_it(bench: Bench) -> None:
    cid, _ = await bench.create(["sleep", "60"])
    await bench.runtime.start(cid)
    process = await bench.exec(cid, ["sh", "-c", "yes | head -c 5000000"], detached=True)
    async with asyncio.timeout(10):
        assert (await process.wait()).code == 0
    terminal = await bench.exec(
        cid, ["sh", "-c", 'until [ "$(stty size)" = "10 20" ]; do sleep 0.05; done; tty'], tty=True
    )
    await terminal.resize(10, 20)
    assert (await collect(await terminal.attach()))[1]
    await bench.runtime.delete(cid)


async def test_out_of_memory_is_told(bench: Bench) -> None:
    resources = spec.Resources(memory=16 * spec.MIB, memory_swap=16 * spec.MIB)
    cid, process = await bench.create(["sh", "-c", "x=$(yes | head -c 100000000); echo $?"], resources=resources)
    await bench.runtime.start(cid)
    ended = await process.wait()
    assert ended.oom
    await bench.runtime.delete(cid)


async def test_confinement_is_real(bench: Bench) -> None:
    script = (
        "grep -E 'CapBnd|Seccomp:|NoNewPrivs' /proc/self/status; mount -t tmpfs x /tmp 2>&1; touch /x 2>&1; "
        "ls /proc/kcore -l; cat /proc/1/comm; echo 1 > /proc/sys/kernel/hostname; id"
    )
    cid, process = await bench.create(["sh", "-c", script])
    found = await output(process, bench.runtime, cid)
    text = (found[1] + found[2]).decode()
    assert "Seccomp:\t2" in text
    assert "CapBnd:\t00000000a80425fb" in text
    assert "mount" in text
    assert "permitted" in text or "denied" in text
    assert "Read-only file system" in text
    assert "uid=0" in text
    await bench.runtime.delete(cid)


async def test_the_cached_seccomp_program_confines_like_the_compiled_one(bench: Bench) -> None:
    found = []
    for _ in range(2):  # the first is compiled by the runtime, the second comes from the cache
        cid, process = await bench.create(["sh", "-c", "grep Seccomp: /proc/self/status; unshare -n true 2>&1"])
        found.append(await output(process, bench.runtime, cid))
        config = json.loads((bench.folder(cid) / "config.json").read_text())
        found.append({3: str("run.oci.seccomp_bpf_data" in config["annotations"]).encode()})
        await bench.runtime.delete(cid)
    assert found[0] == found[2]
    assert b"Seccomp:\t2" in found[0][1]
    assert (found[1][3], found[3][3]) == (b"False", b"True")


async def test_pause_pids_update(bench: Bench) -> None:
    cid, process = await bench.create(["sh", "-c", "sleep 60 & sleep 60 & wait"])
    await bench.runtime.start(cid)
    async with asyncio.timeout(10):
        while len(await bench.runtime.pids(cid)) < 3:
            await asyncio.sleep(0.01)
    assert process.pid in await bench.runtime.pids(cid)
    await bench.runtime.pause(cid)
    await bench.runtime.resume(cid)
    await bench.runtime.update(cid, spec.oci_resources(spec.Resources(memory=64 * spec.MIB), bench.host))
    await bench.runtime.delete(cid)


async def test_a_paused_container_stands_still_and_can_be_killed(bench: Bench) -> None:
    cid, process = await bench.create(["sh", "-c", "while :; do echo x; sleep 0.01; done"])
    await bench.runtime.start(cid)
    await wait_for(lambda: bench.log(cid).stat().st_size > 0, "output")
    await bench.runtime.pause(cid)
    await asyncio.sleep(0.1)
    size = bench.log(cid).stat().st_size
    await asyncio.sleep(0.1)
    assert bench.log(cid).stat().st_size == size
    await bench.runtime.resume(cid)
    await wait_for(lambda: bench.log(cid).stat().st_size > size, "more output")
    await bench.runtime.pause(cid)
    async with asyncio.timeout(10):
        await bench.runtime.kill(cid, signal.SIGKILL)
        assert (await process.wait()).code == 137
    await bench.runtime.delete(cid)
    other, _ = await bench.create(["sleep", "60"])
    await bench.runtime.start(other)
    await bench.runtime.pause(other)
    async with asyncio.timeout(10):
        await bench.runtime.delete(other)


@pytest.mark.parametrize("size", [8_000_000, *([30_000_000] if os.environ.get("SHOAL_LONG") else [])])
async def test_several_attachers_see_the_same_and_a_stalled_one_holds_nobody(bench: Bench, size: int) -> None:
    cid, process = await bench.create(["sh", "-c", f"yes {'0123456789' * 200} | head -c {size}; echo done"])
    stalled = socket.socket(socket.AF_UNIX)
    stalled.connect(str(bench.directory / "run/m" / cid[:12] / "sock"))
    stalled.sendall(frames.frame(frames.ATTACH))
    first, second = await process.attach(), await process.attach()
    await bench.runtime.start(cid)
    one, two = await asyncio.gather(collect(first), collect(second))
    exited = await process.wait()
    kept = 0
    with stalled:
        stalled.settimeout(10)
        while data := stalled.recv(1 << 20):
            kept += len(data)
    assert (kept > size) is (size < MAX_SPILL), "what it did not take is kept for it, but not without end"
    assert len(one[1]) == size + len("done\n")
    assert one == two
    assert exited.code == 0
    assert sum([len(line.data) async for some in read_logs(bench.log(cid)) for line in some]) == size + len("done\n")
    await bench.runtime.delete(cid)


async def test_a_stalled_attacher_does_not_delay_the_news_of_an_exit(bench: Bench) -> None:
    cid, process = await bench.create(["sh", "-c", "head -c 2000000 /dev/zero; exit 3"])
    with socket.socket(socket.AF_UNIX) as stalled:
        stalled.connect(str(bench.directory / "run/m" / cid[:12] / "sock"))
        stalled.sendall(frames.frame(frames.ATTACH))
        await bench.runtime.start(cid)
        async with asyncio.timeout(3):
            assert (await process.wait()).code == 3
    await bench.runtime.delete(cid)


async def test_a_slow_reader_loses_nothing(bench: Bench) -> None:
    size = 6_000_000
    cid, process = await bench.create(["sh", "-c", f"yes 0123456789 | head -c {size}"])
    stream = await process.attach()
    await bench.runtime.start(cid)
    await asyncio.sleep(0.5)
    count = 0
    async for _, data in stream:
        count += len(data)
        await asyncio.sleep(0.001)
    assert count == size
    await stream.close()
    await bench.runtime.delete(cid)


async def test_the_log_rotates_and_a_follower_sees_every_line_once(bench: Bench) -> None:
    io = {"log_max_bytes": 100_000, "log_max_files": 50}
    cid, process = await bench.create(["seq", "1", "20000"], io=io)
    over = asyncio.Event()

    async def follow() -> list[int]:
        return [int(line.data) async for some in read_logs(bench.log(cid), follow=True, ended=over) for line in some]

    async with asyncio.TaskGroup() as group:
        follower = group.create_task(follow())
        await bench.runtime.start(cid)
        await process.wait()
        over.set()
    assert follower.result() == list(range(1, 20001))
    assert bench.log(cid).with_name("json.log.5").exists()
    await bench.runtime.delete(cid)


DAEMON = """
import asyncio, os, sys
from pathlib import Path
from tests.integration.containerlab import Bench, enter
enter()
async def main():
    bench = Bench(Path(sys.argv[1]), Path(sys.argv[2]))
    await bench.runtime.open()
    for script in sys.argv[3:]:
        cid, process = await bench.create(["sh", "-c", script], io={"stdin": True})
        await bench.runtime.start(cid)
        print(cid, flush=True)
    execed = await bench.exec(cid, ["sh", "-c", "sleep 0.7; exit 6"], detached=True)
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_containers_outlive_a_killed_daemon_and_are_adopted(bench: Bench) -> None:
    await bench.runtime.close()
    ends = "echo a; sleep 0.6; echo b; exit 4"
    stays = "echo here; cat; exit 8"
    daemon = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", DAEMON, str(bench.directory), str(bench.root), ends, stays),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert daemon.stdout is not None
    ids = []
    async with asyncio.timeout(30):
        while (line := (await daemon.stdout.readline()).decode().strip()) != "ready":
            assert line, "the daemon failed"
            ids.append(line)
    daemon.kill()
    await daemon.wait()
    await wait_for(bench.exit_file(ids[0]).exists, "the container that ends")

    await bench.runtime.open()
    assert sorted(await bench.runtime.known()) == sorted(ids)
    io = ProcessIO(stdin=True)
    ended = await bench.runtime.adopt(ids[0], io, bench.exit_file(ids[0]))
    assert ended is not None
    assert (await ended.wait()).code == 4
    assert [line.data async for some in read_logs(bench.log(ids[0])) for line in some] == [b"a\n", b"b\n"]
    running = await bench.runtime.adopt(ids[1], io, bench.exit_file(ids[1]))
    assert running is not None
    assert running.pid in await bench.runtime.pids(ids[1])
    stream = await running.attach()
    await stream.write(b"still alive\n")
    assert await anext(aiter(stream)) == (1, b"still alive\n")
    execs = list((bench.directory / "run/x").iterdir())
    assert len(execs) == 1
    await wait_for((execs[0] / "exit").exists, "the exec")
    exec_id = execs[0].name.split(".")[1]
    adopted = await bench.runtime.adopt_exec(ids[1], exec_id)
    assert adopted is not None
    assert (await adopted.wait()).code == 6
    await bench.runtime.kill(ids[1], signal.SIGKILL)
    assert (await running.wait()).code == 137
    assert [line.data async for some in read_logs(bench.log(ids[1])) for line in some] == [b"here\n", b"still alive\n"]
    bench.ids += ids
    for cid in ids:
        await bench.runtime.delete(cid)
    assert await bench.runtime.adopt(ids[0], io, bench.directory / "none") is None
    assert not list((bench.directory / "run/x").iterdir())
    await stream.close()


async def test_a_killed_monitor_ends_its_container_and_says_so(bench: Bench) -> None:
    cid, process = await bench.create(["sleep", "60"])
    await bench.runtime.start(cid)
    monitor = int((bench.directory / "run/m" / cid[:12] / "monitor.pid").read_text())
    os.kill(monitor, signal.SIGKILL)
    ended = await process.wait()
    assert (ended.code, ended.error) == (255, "the container's monitor died")
    await wait_for(lambda: not Path(f"/proc/{process.pid}").exists(), "the process to be ended")
    await bench.runtime.delete(cid)


@pytest.mark.parametrize("content", [None, ""])
async def test_a_directory_that_was_never_filled_is_removed_alone(bench: Bench, content: str | None) -> None:
    cid, _process = await bench.create(["sleep", "100"])
    directory = bench.directory / "run/m"
    there = set(directory.iterdir())
    (directory / "0123456789ab").mkdir()
    if content is not None:
        (directory / "0123456789ab/id").write_text(content)
    assert set(await bench.runtime.known()) == {cid, "0123456789ab"}
    await bench.runtime.delete("0123456789ab")
    assert set(directory.iterdir()) == there
    await bench.runtime.delete(cid)


async def test_a_killed_zygote_is_replaced_and_takes_no_container_along(bench: Bench) -> None:
    cid, process = await bench.create(["cat"], io={"stdin": True, "stdin_once": True})
    await bench.runtime.start(cid)
    zygote = bench.runtime._zygote.pid
    assert zygote is not None
    os.kill(zygote, signal.SIGKILL)
    await asyncio.sleep(0.05)
    other, second = await bench.create(["true"])
    await bench.runtime.start(other)
    assert (await second.wait()).code == 0
    stream = await process.attach()
    await stream.write(b"on")
    await stream.close_stdin()
    assert (await collect(stream))[1] == b"on"
    for one in (cid, other):
        await bench.runtime.delete(one)


async def test_a_monitor_loads_nothing_but_the_standard_library_and_itself(bench: Bench) -> None:
    cid, _ = await bench.create(["sleep", "60"])
    await bench.runtime.start(cid)
    monitor = (bench.directory / "run/m" / cid[:12] / "monitor.pid").read_text()
    maps = Path(f"/proc/{monitor}/maps").read_text()
    assert "site-packages" not in maps
    rollup = Path(f"/proc/{monitor}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    print(f"monitor PSS {pss} kB")
    assert pss < 8000
    await bench.runtime.delete(cid)


async def test_how_fast_the_log_goes(bench: Bench) -> None:
    size = 100_000_000
    line = "x" * 99
    cid, process = await bench.create(["sh", "-c", f"yes {line} | head -c {size}"])
    began = time.monotonic()
    await bench.runtime.start(cid)
    assert (await process.wait()).code == 0
    seconds = time.monotonic() - began
    print(f"json-file log {size / 1e6 / seconds:.0f} MB/s")
    await bench.runtime.delete(cid)
