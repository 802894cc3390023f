"""What a cluster can be made of: the lab's namespaces, containers of docker-compose, virtual machines of Vagrant."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence

from lab.cluster.cluster import Cluster, Done, hosts, wait_answers
from lab.lab import Lab
from lab.paths import ROOT, LabError, base_environment, program

MANAGERS: tuple[str, ...] = ("m1", "m2", "m3")
WORKERS: tuple[str, ...] = ("w1", "w2")
COMPOSE_TEST = ROOT / "compose-test"
COMPOSE = ROOT / ".tools" / "compose" / "docker-compose"


class LabCluster:
    """A lab that is up, with three managers and two workers."""

    managers, workers = MANAGERS, WORKERS

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def run(self, host: str, *argv: str, timeout_s: float = 60) -> Done:
        """See Cluster."""
        return self._lab.run(host, *argv, timeout_s=timeout_s)

    def address(self, host: str) -> str:
        """See Cluster."""
        return self._lab.host(host).address

    def kill(self, host: str) -> None:
        """See Cluster."""
        self._lab.kill(host)

    def start(self, host: str) -> None:
        """See Cluster."""
        self._lab.start(host)

    def power_off(self, host: str) -> None:
        """See Cluster."""
        self._lab.power_off(host)

    def power_on(self, host: str) -> None:
        """See Cluster."""
        self._lab.start(host)

    def cut(self, host: str) -> None:
        """See Cluster."""
        self._lab.partition([host], [each for each in hosts(self) if each != host])

    def heal(self, host: str) -> None:
        """See Cluster."""
        self._lab.heal([host], [each for each in hosts(self) if each != host])


class ComposeCluster:
    """The containers of compose-test/docker-compose.yml on the engine behind `docker_host`."""

    managers, workers = MANAGERS, WORKERS

    def __init__(self, docker_host: str, project: str = "shoaltest") -> None:
        self._project = project
        self._environment = base_environment() | {
            "DOCKER_HOST": docker_host,
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_API_VERSION": "1.24",
            "COMPOSE_DOCKER_CLI_BUILD": "0",
        }

    def up(self) -> None:
        """Build the image and start the nodes. They are in no swarm yet."""
        self._compose("build", "m1")
        self._compose("up", "-d", "--no-build")

    def down(self) -> None:
        """Remove the nodes, their disks and their network."""
        self._compose("down", "--volumes", "--timeout", "1")

    def run(self, host: str, *argv: str, timeout_s: float = 60) -> Done:
        """See Cluster."""
        return self._docker("exec", self._container(host), *argv, timeout_s=timeout_s)

    def address(self, host: str) -> str:
        """See Cluster."""
        done = _checked(self._docker("inspect", self._container(host)))
        networks: Mapping[str, Mapping[str, str]] = json.loads(done.stdout)[0]["NetworkSettings"]["Networks"]
        return next(iter(networks.values()))["IPAddress"]

    def kill(self, host: str) -> None:
        """See Cluster."""
        _checked(self.run(host, "shoal-node", "kill"))

    def start(self, host: str) -> None:
        """See Cluster."""
        _checked(self.run(host, "shoal-node", "start"))
        wait_answers(self, host)

    def power_off(self, host: str) -> None:
        """See Cluster."""
        _checked(self._docker("kill", self._container(host)))

    def power_on(self, host: str) -> None:
        """See Cluster."""
        _checked(self._docker("start", self._container(host)))
        wait_answers(self, host)

    def cut(self, host: str) -> None:
        """See Cluster."""
        _drop_others(self, host)

    def heal(self, host: str) -> None:
        """See Cluster."""
        _checked(self.run(host, "nft", "delete table inet cut"))

    def _container(self, host: str) -> str:
        return f"{self._project}_{host}_1"

    def _docker(self, *argv: str, timeout_s: float = 60) -> Done:
        return _run([str(program("docker")), *argv], timeout_s, self._environment)

    def _compose(self, *argv: str) -> None:
        modules = COMPOSE / "usr/lib/python3/dist-packages"
        command = [sys.executable, str(COMPOSE / "usr/bin/docker-compose"), "-f", "docker-compose.yml", *argv]
        _checked(_run(command, 300, self._environment | {"PYTHONPATH": str(modules)}))


class VagrantCluster:
    """The machines of compose-test/Vagrantfile, up and provisioned."""

    managers, workers = MANAGERS, WORKERS

    def run(self, host: str, *argv: str, timeout_s: float = 60) -> Done:
        """See Cluster."""
        words = shlex.join(["sudo", "env", "DOCKER_HOST=unix:///run/shoal/shoal.sock", *argv])
        return self._vagrant("ssh", host, "--no-tty", "-c", words, timeout_s=timeout_s)

    def address(self, host: str) -> str:
        """See Cluster; as the Vagrantfile gives them."""
        return f"192.168.56.{11 + hosts(self).index(host)}"

    def kill(self, host: str) -> None:
        """See Cluster. The machines' unit does not start it again (compose-test/provision)."""
        _checked(self.run(host, "systemctl", "kill", "--kill-who=main", "--signal=KILL", "shoald"))
        _checked(self.run(host, "sh", "-c", "while systemctl is-active -q shoald; do sleep 0.1; done"))

    def start(self, host: str) -> None:
        """See Cluster."""
        _checked(self.run(host, "systemctl", "start", "shoald"))

    def power_off(self, host: str) -> None:
        """See Cluster."""
        _checked(self._vagrant("halt", "--force", host, timeout_s=120))

    def power_on(self, host: str) -> None:
        """See Cluster."""
        _checked(self._vagrant("up", "--no-provision", host, timeout_s=300))
        wait_answers(self, host)

    def cut(self, host: str) -> None:
        """See Cluster."""
        _drop_others(self, host)

    def heal(self, host: str) -> None:
        """See Cluster."""
        _checked(self.run(host, "nft", "delete table inet cut"))

    def _vagrant(self, *argv: str, timeout_s: float = 60) -> Done:
        return _run([str(program("vagrant")), *argv], timeout_s, dict(os.environ))


def _drop_others(cluster: Cluster, host: str) -> None:
    """Drop what comes from the other hosts and goes to them; ways in (docker exec, ssh) stay open."""
    others = ", ".join(cluster.address(each) for each in hosts(cluster) if each != host)
    rules = "table inet cut {\n"
    for hook, side in (("input", "saddr"), ("output", "daddr")):
        rules += f"chain {hook} {{ type filter hook {hook} priority -300; ip {side} {{ {others} }} drop; }}\n"
    _checked(cluster.run(host, "nft", rules + "}"))


def _run(command: Sequence[str], timeout_s: float, environment: Mapping[str, str]) -> Done:
    return subprocess.run(
        command,
        cwd=COMPOSE_TEST,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def _checked(done: Done) -> Done:
    if done.returncode != 0:
        words = " ".join(str(word) for word in done.args)
        raise LabError(f"{words}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done
