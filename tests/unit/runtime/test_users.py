"""Users as the image's own files name them."""

from __future__ import annotations

import pytest

from api.errors import InvalidArgument
from worker.engine.runtime.spec import User
from worker.engine.runtime.users import resolve

PASSWD = """root:x:0:0:root:/root:/bin/sh
# comment
broken:line
www:x:33:33::/var/www:/bin/false
7:x:1007:1008::/seven:
"""
GROUP = "root:x:0:\nwww:x:33:\nadm:x:4:www,root\nvideo:x:44:other, www\nbad:x\n"


@pytest.mark.parametrize(
    ("wish", "user", "home"),
    [
        ("", User(0, 0, (0, 4)), "/root"),
        ("root", User(0, 0, (0, 4)), "/root"),
        ("www", User(33, 33, (33, 4, 44)), "/var/www"),
        ("33", User(33, 33, (33, 4, 44)), "/var/www"),
        ("www:adm", User(33, 4, (4,)), "/var/www"),
        ("1234", User(1234, 0, (0,)), "/"),
        ("1234:5678", User(1234, 5678, (5678,)), "/"),
        ("www:", User(33, 33, (33, 4, 44)), "/var/www"),
        (":44", User(0, 44, (44,)), "/root"),
        ("7", User(1007, 1008, (1008,)), "/seven"),
    ],
)
def test_resolve(wish: str, user: User, home: str) -> None:
    found = resolve(wish, PASSWD, GROUP)
    assert (found.user, found.home) == (user, home)


def test_extra_groups_are_added_once() -> None:
    assert resolve("www", PASSWD, GROUP, ["video", "99", "33"]).user == User(33, 33, (33, 4, 44, 99))


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ("nobody", "unable to find user nobody: no matching entries in passwd file"),
        ("www:nogroup", "unable to find group nogroup: no matching entries in group file"),
        ("-1", "uids and gids must be in range 0-2147483647"),
        ("4294967296", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_bad_users_are_named(wish: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        resolve(wish, PASSWD, GROUP)


def test_an_image_without_files_still_has_numbers() -> None:
    assert resolve("1000:1000", "", "").user == User(1000, 1000, (1000,))
    assert resolve("", "", "").user == User(0, 0, (0,))
