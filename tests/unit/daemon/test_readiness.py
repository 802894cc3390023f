"""What the service manager hears."""

import logging
import os
import socket
from pathlib import Path

import pytest

from daemon.readiness import ServiceManager


def test_messages_reach_the_manager_and_no_child_inherits_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        manager = ServiceManager()
        assert "NOTIFY_SOCKET" not in os.environ
        manager.tell("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_a_name_with_an_at_is_abstract(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"shoal-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        ServiceManager().tell("STOPPING=1")
        assert listener.recv(100) == b"STOPPING=1"


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    ServiceManager().tell("READY=1")
    assert not caplog.records
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        ServiceManager().tell("READY=1")
    assert "READY=1" in caplog.text
