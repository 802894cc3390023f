"""Names: Docker's normal form and the familiar one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InvalidArgument
from worker.engine.images import names

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "normal", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("r.example.com/a/b/c", "r.example.com/a/b/c:latest", "r.example.com/a/b/c:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1.36@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
    ],
)
def test_normal_and_familiar_form(text: str, normal: str, familiar: str) -> None:
    reference = names.parse(text).tagged()
    assert str(reference) == normal
    assert reference.familiar() == familiar


@pytest.mark.parametrize(
    "text",
    ["", ":tag", "a:", "a b", "-a", "a//b", "a/", "/a", "a:b:c", "a@sha256:12", "a@md5:" + "0" * 32, "a.-b/c",
     "_a", "a..b", "a:" + "t" * 129, "a/../b", "ä", "a\n", "a:b\n"],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        names.parse(text)


def test_texts_that_clients_know() -> None:
    with pytest.raises(InvalidArgument, match="repository name must be lowercase"):
        names.parse("Busybox")
    with pytest.raises(InvalidArgument, match="cannot specify 64-byte hexadecimal strings"):
        names.parse("ab" * 32)
    with pytest.raises(InvalidArgument, match="must not be more than 255 characters"):
        names.parse("a" * 256)


_component = st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,8})?", fullmatch=True)


@given(
    st.sampled_from(["", "localhost/", "r.example.com/", "r:5000/"]),
    st.lists(_component, min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", ":v1", f"@{DIGEST}"]),
)
def test_familiar_and_normal_forms_mean_the_same(domain: str, path: str, suffix: str) -> None:
    reference = names.parse(domain + path + suffix)
    assert names.parse(str(reference)) == reference
    assert names.parse(reference.familiar()) == reference
