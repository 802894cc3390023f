"""POST /build over HTTP, as clients without a CLI send it: every parameter, every kind of context, every ending."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.lab import Lab
from lab.paths import base_environment
from lab.wait import until
from tests.e2e.builds import Built, basic_registry, begin, build, context, run, web_server
from tests.e2e.client import Docker

ANSWER = "FROM busybox\nCOPY answer /answer\nRUN cat /answer\n"
BUILD = "images.build"


def containers(docker: Docker) -> list[str]:
    return docker.ok("ps", "-aq").split()


class TestOutput:
    @pytest.mark.promise(f"{BUILD}.b1", f"{BUILD}.b3", f"{BUILD}.b5", f"{BUILD}.b7", f"{BUILD}.status.200",
                         f"{BUILD}.response.stream")  # fmt: skip
    def test_each_step_until_the_id(self, docker: Docker) -> None:
        built = build(docker, context(ANSWER, {"answer": "42\n"}))
        assert built.status == 200
        assert all(set(message) == {"stream"} for message in built.messages)
        lines = built.text.splitlines()
        assert lines[0] == "Step 1/3 : FROM busybox"
        assert lines[2] == "Step 2/3 : COPY answer /answer"
        assert "42" in lines
        assert docker.inspect(built.image)["Id"].startswith(f"sha256:{built.image}")
        assert containers(docker) == []

    @pytest.mark.promise(f"{BUILD}.b2", f"{BUILD}.body._stream")
    @pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
    def test_compressions(self, docker: Docker, mode: str) -> None:
        built = build(docker, context("FROM busybox\nCOPY x /x\n", {"x": mode}, mode=mode))
        assert run(docker, built.image, "cat", "/x") == mode

    @pytest.mark.promise(f"{BUILD}.b29", f"{BUILD}.response.error", f"{BUILD}.response.errorDetail",
                         f"{BUILD}.response.errorDetail.code", f"{BUILD}.response.errorDetail.message")  # fmt: skip
    def test_a_failing_command_is_the_last_message(self, docker: Docker) -> None:
        built = build(docker, context("FROM busybox\nRUN echo out; echo err >&2; exit 3\n"))
        assert built.status == 200
        words = "The command '/bin/sh -c echo out; echo err >&2; exit 3' returned a non-zero code: 3"
        assert built.messages[-1] == {"error": words, "errorDetail": {"code": 3, "message": words}}
        assert "out\n" in built.text
        assert "\x1b[91merr\n\x1b[0m" in built.text

    @pytest.mark.promise(f"{BUILD}.b6")
    @pytest.mark.parametrize(
        ("dockerfile", "told"),
        [
            ("FRM busybox\n", "dockerfile parse error line 1: unknown instruction: FRM"),
            ("FROM busybox\nRUN sleep 60\nCOPY a\n", "COPY requires at least two arguments"),
            ("FROM busybox\nRUN sleep 60\nENV a=b c\n", "can't find = in"),
            ("", "the Dockerfile (Dockerfile) cannot be empty"),
            ("# nothing\n", "file with no instructions"),
            ("FROM busybox\nCOPY <<EOF /x\nhello\nEOF\n", "heredocs"),
            ("FROM busybox\nRUN sleep 60\nHEALTHCHECK FOO\n", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ],
    )
    def test_a_wrong_dockerfile_is_refused_before_anything_runs(
        self, docker: Docker, dockerfile: str, told: str
    ) -> None:
        built = build(docker, context(dockerfile))
        assert built.status == 400
        assert told in built.error

    @pytest.mark.promise(f"{BUILD}.status.500")
    def test_a_registry_that_can_not_be_reached(self, docker: Docker) -> None:
        built = build(docker, b"", {"remote": "http://127.0.0.1:1/x"})
        assert built.status == 500
        assert built.error.startswith("error downloading remote context http://127.0.0.1:1/x: ")

    @pytest.mark.promise(f"{BUILD}.b8")
    def test_a_client_that_leaves_ends_it(self, docker: Docker) -> None:
        connection = begin(docker, context("FROM busybox\nRUN echo here; sleep 600\n"), {}, {})
        answer = connection.getresponse()
        while b"here" not in answer.readline():
            pass
        assert len(containers(docker)) == 1
        assert connection.sock is not None
        connection.sock.close()
        answer.close()
        connection.close()
        until(lambda: containers(docker) == [], timeout_s=15, what="the step's container to go")


class TestParameters:
    @pytest.mark.promise(f"{BUILD}.b4", f"{BUILD}.query.dockerfile")
    def test_dockerfile(self, docker: Docker) -> None:
        files = {"sub/": "", "sub/Other": "FROM busybox\nENV which=other\n"}
        built = build(docker, context("FROM busybox\n", files), {"dockerfile": "sub/Other"})
        assert "which=other" in docker.inspect(built.image)["Config"]["Env"]
        missing = build(docker, context("FROM busybox\n"), {"dockerfile": "nope"})
        assert (missing.status, missing.error) == (400, "Cannot locate specified Dockerfile: nope")
        outside = build(docker, context("FROM busybox\n"), {"dockerfile": "../../etc/passwd"})
        assert outside.status == 400

    @pytest.mark.promise(f"{BUILD}.b10", f"{BUILD}.b11", f"{BUILD}.query.t")
    def test_t(self, docker: Docker) -> None:
        built = build(docker, context("FROM busybox\nENV t=1\n"), {"t": ["one", "two:v2", "localhost:5000/three"]})
        names = {"one:latest", "two:v2", "localhost:5000/three:latest"}
        assert set(docker.inspect(built.image)["RepoTags"]) == names
        assert built.text.endswith("Successfully tagged one:latest\nSuccessfully tagged two:v2\nSuccessfully tagged "
                                   "localhost:5000/three:latest\n")  # fmt: skip
        assert build(docker, context("FROM busybox\n"), {"t": "UPPER"}).status == 400
        docker.ok("rmi", *names)

    @pytest.mark.promise(f"{BUILD}.b16", f"{BUILD}.query.q")
    def test_q(self, docker: Docker) -> None:
        built = build(docker, context("FROM busybox\nRUN echo loud\n"), {"q": "1"})
        (message,) = built.messages
        assert docker.inspect(str(message["stream"]).strip())["Id"] == str(message["stream"]).strip()

    @pytest.mark.promise(f"{BUILD}.b17", f"{BUILD}.query.nocache")
    def test_nocache(self, docker: Docker) -> None:
        archive = context("FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n")
        first = build(docker, archive, {"nocache": "1"})
        again = build(docker, archive)
        assert " ---> Using cache\n" in again.text
        assert again.image == first.image
        anew = build(docker, archive, {"nocache": "1"})
        assert "Using cache" not in anew.text
        assert anew.image != first.image

    @pytest.mark.promise(f"{BUILD}.b18", f"{BUILD}.query.pull")
    def test_pull(self, docker: Docker) -> None:
        archive = context("FROM busybox\n")
        assert not any("status" in message for message in build(docker, archive).messages)
        pulled = build(docker, archive, {"pull": "1"})
        assert any(message.get("status") == "Pulling from library/busybox" for message in pulled.messages)
        assert pulled.image

    @pytest.mark.promise(f"{BUILD}.b19", f"{BUILD}.query.rm", f"{BUILD}.query.memory", f"{BUILD}.query.memswap",
                         f"{BUILD}.query.cpushares", f"{BUILD}.query.cpusetcpus", f"{BUILD}.query.cpuperiod",
                         f"{BUILD}.query.cpuquota", f"{BUILD}.query.shmsize", f"{BUILD}.b21",
                         f"{BUILD}.b23")  # fmt: skip
    def test_limits_of_the_containers_that_rm_keeps(self, docker: Docker) -> None:
        archive = context("FROM busybox\nRUN df -k /dev/shm | tail -1\n")
        limits = {"memory": "67108864", "memswap": "-1", "cpushares": "512", "cpusetcpus": "0", "cpuperiod": "50000",
                  "cpuquota": "25000", "shmsize": "8388608"}  # fmt: skip
        built = build(docker, archive, {"rm": "0", "nocache": "1", **limits})
        assert "8192" in built.text
        (kept,) = containers(docker)
        host = docker.inspect(kept)["HostConfig"]
        assert (host["Memory"], host["MemorySwap"], host["CpuShares"], host["CpusetCpus"]) == (67108864, -1, 512, "0")
        assert (host["CpuPeriod"], host["CpuQuota"], host["ShmSize"]) == (50000, 25000, 8388608)
        docker.ok("rm", kept)
        assert "65536" in build(docker, archive, {"nocache": "1"}).text
        assert containers(docker) == []
        assert build(docker, archive, {"shmsize": "-1"}).status == 400
        assert build(docker, archive, {"cpuquota": "much"}).status == 400

    @pytest.mark.promise(f"{BUILD}.b20", f"{BUILD}.query.forcerm")
    def test_forcerm(self, docker: Docker) -> None:
        archive = context("FROM busybox\nRUN exit 1\n")
        build(docker, archive, {"forcerm": "1", "rm": "0"})
        assert containers(docker) == []
        build(docker, archive)
        (kept,) = containers(docker)
        docker.ok("rm", kept)

    @pytest.mark.promise(f"{BUILD}.b22", f"{BUILD}.query.buildargs")
    def test_buildargs(self, docker: Docker) -> None:
        text = "FROM busybox\nARG WHO=nobody\nENV GREETING=hello-$WHO\nRUN echo $WHO > /who\n"
        built = build(docker, context(text), {"buildargs": json.dumps({"WHO": "you", "EXTRA": "1"})})
        assert run(docker, built.image, "sh", "-c", "cat /who; echo $GREETING-$WHO") == "you\nhello-you-"
        assert "[Warning] One or more build-args [EXTRA] were not consumed\n" in built.text
        other = build(docker, context(text), {"buildargs": json.dumps({"WHO": "me"})})
        assert run(docker, other.image, "cat", "/who") == "me"
        bad = build(docker, context(text), {"buildargs": "x"})
        assert bad.status == 400
        assert "build args" in bad.error

    @pytest.mark.promise(f"{BUILD}.b24", f"{BUILD}.query.labels")
    def test_labels(self, docker: Docker) -> None:
        text = "FROM busybox\nLABEL a=file b=file\n"
        built = build(docker, context(text), {"labels": json.dumps({"b": "$HOME", "c": "x y"})})
        assert docker.inspect(built.image)["Config"]["Labels"] == {"a": "file", "b": "$HOME", "c": "x y"}

    def test_target(self, docker: Docker) -> None:
        text = "FROM busybox AS one\nENV stage=1\nFROM busybox\nRUN exit 1\n"
        built = build(docker, context(text), {"target": "ONE"})
        assert "stage=1" in docker.inspect(built.image)["Config"]["Env"]
        assert build(docker, context(text), {"target": "two"}).error == (
            "failed to reach build target two in Dockerfile"
        )

    def test_networkmode(self, docker: Docker) -> None:
        built = build(docker, context("FROM busybox\nRUN ls /sys/class/net\n"), {"networkmode": "none", "nocache": "1"})
        assert "eth0" not in built.text
        assert built.image


class TestRemote:
    @pytest.fixture
    def site(self, single: Lab, tmp_path: Path) -> Iterator[str]:
        directory = tmp_path / "site"
        directory.mkdir()
        (directory / "Dockerfile.txt").write_text("FROM busybox\nENV from=text\n")
        archive = context("FROM busybox\nCOPY data /data\n", {"data": "1", "Other": "FROM busybox\nENV from=other\n"},
                          mode="w:gz")  # fmt: skip
        (directory / "context.tar.gz").write_bytes(archive)
        (directory / "inner.tar").write_bytes(context("x", {"deep/file": "in"}))
        _repository(directory / "project.git", tmp_path / "work")
        with web_server(single, "m1", directory) as address:
            yield address

    @pytest.mark.promise(f"{BUILD}.b9", f"{BUILD}.b12", f"{BUILD}.b13", f"{BUILD}.b14", f"{BUILD}.b15",
                         f"{BUILD}.query.remote")  # fmt: skip
    def test_every_kind(self, docker: Docker, site: str) -> None:
        def remote(path: str, **query: str) -> Built:
            return build(docker, b"", {"remote": f"{site}/{path}", **query})

        text = remote("Dockerfile.txt", dockerfile="ignored")
        assert "from=text" in docker.inspect(text.image)["Config"]["Env"]
        assert run(docker, remote("context.tar.gz").image, "cat", "/data") == "1"
        other = remote("context.tar.gz", dockerfile="Other")
        assert "from=other" in docker.inspect(other.image)["Config"]["Env"]
        missing = remote("context.tar.gz", dockerfile="Missing")
        assert (missing.status, missing.error) == (400, "Cannot locate specified Dockerfile: Missing")
        assert remote("nothing-here").status == 500
        assert build(docker, b"", {"remote": "ftp://x/y"}).status == 400
        assert run(docker, remote("project.git").image, "cat", "/file") == "newest"
        assert run(docker, remote("project.git#v1:sub").image, "cat", "/file") == "old in sub"
        assert remote("project.git#nope").status == 500
        assert remote("project.git#v1:../..").status == 400

    def test_add_from_the_web(self, docker: Docker, site: str) -> None:
        text = f"FROM busybox\nADD {site}/Dockerfile.txt /named\nADD {site}/inner.tar /in/\nRUN ls -l /named /in\n"
        built = build(docker, context(text))
        assert run(docker, built.image, "cat", "/named") == "FROM busybox\nENV from=text"
        assert run(docker, built.image, "stat", "-c", "%a %F", "/in/inner.tar") == "600 regular file"
        assert " ---> Using cache\n" in build(docker, context(text)).text
        missing = build(docker, context(f"FROM busybox\nADD {site}/missing /x\n"))
        assert missing.error.startswith(f'ADD failed: Get "{site}/missing": 404')


def _repository(bare: Path, work: Path) -> None:
    """A repository that a plain web server can serve."""

    def git(*args: str) -> None:
        name = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")
        subprocess.run(["git", *name, *args], cwd=work, check=True, capture_output=True, env=base_environment())

    work.mkdir()
    git("init", "-q")
    for file, content in (("Dockerfile", "FROM busybox\nCOPY file /file\n"), ("file", "old")):
        (work / file).write_text(content)
    (work / "sub").mkdir()
    (work / "sub/Dockerfile").write_text("FROM busybox\nCOPY file /file\n")
    (work / "sub/file").write_text("old in sub")
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "v1")
    (work / "file").write_text("newest")
    git("commit", "-qam", "two")
    git("clone", "-q", "--bare", str(work), str(bare))
    subprocess.run(["git", "update-server-info"], cwd=bare, check=True, env=base_environment())


def test_hostile_contexts(docker: Docker, tmp_path: Path) -> None:
    def archive(*members: tuple[str, bytes, str]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, kind, link in members:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, link
                tar.addfile(member)
        return buffer.getvalue() + context("FROM busybox\nCOPY . /x\n")

    climbing = build(docker, archive(("../../evil", tarfile.REGTYPE, "")))
    assert climbing.status == 400
    assert "../../evil" in climbing.error
    through = archive(("out", tarfile.SYMTYPE, str(tmp_path)), ("out/evil", tarfile.REGTYPE, ""))
    build(docker, through)
    assert os.listdir(tmp_path) == []
    leak = context("FROM busybox\nCOPY out/passwd /x\n", {})
    buffer = io.BytesIO(leak)
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        member = tarfile.TarInfo("out")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(member)
    assert "COPY failed" in build(docker, buffer.getvalue()).error
    for garbage in (b"hello", b"\x1f\x8b garbage", b"x" * 5000):
        assert build(docker, garbage).status == 400


@pytest.mark.promise(f"{BUILD}.b25", f"{BUILD}.b26", f"{BUILD}.body.X-Registry-Config",
                     f"{BUILD}.body.X-Registry-Config.<registry>",
                     f"{BUILD}.body.X-Registry-Config.<registry>.username",
                     f"{BUILD}.body.X-Registry-Config.<registry>.password")  # fmt: skip
def test_credentials_for_base_images(single: Lab, docker: Docker) -> None:
    with basic_registry(single, "m1", "s3cret") as registry:
        archive = context(f"FROM {registry}/app:v1\n")
        assert "pull access denied" in build(docker, archive).error
        logins = {"other.example.com": {"username": "x", "password": "y"},
                  registry: {"username": "user", "password": "s3cret", "email": None}}  # fmt: skip
        header = base64.urlsafe_b64encode(json.dumps(logins).encode()).decode()
        assert build(docker, archive, headers={"X-Registry-Config": header}).image
    assert build(docker, archive, headers={"X-Registry-Config": "!"}).status == 400
