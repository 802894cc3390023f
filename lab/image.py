"""A small busybox image made from the machine's static busybox: for the lab's registry and for a real dockerd.

Run as a file it seeds a registry (`python lab/image.py http://10.99.0.250:5000`), standard library only, so that it
works inside a lab host. The image is the same on every run: digests depend on the busybox binary alone.
"""

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
REPOSITORIES = {"library/busybox": ("latest", "1.35"), "library/alpine": ("latest",)}
"""What the registry holds; `alpine` is the same image under a name that no daemon has built in."""

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class Image:
    """One single-layer image: the layer's tar, its gzip and the config's JSON."""

    layer: bytes
    packed: bytes
    config: bytes

    @property
    def manifest(self) -> bytes:
        """Image manifest, version 2 schema 2."""
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "size": len(self.config),
                    "digest": digest(self.config),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                        "size": len(self.packed),
                        "digest": digest(self.packed),
                    }
                ],
            }
        ).encode()


def digest(data: bytes) -> str:
    """`sha256:…` of the bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def build(label: str = "") -> Image:
    """The image; a label makes it another one (another config digest) with the same layer."""
    binary = next((Path(path) for path in BUSYBOX if Path(path).exists()), None)
    if binary is None:
        raise SystemExit("busybox is missing: run script/bootstrap")
    applets = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in (
            "bin",
            "dev",
            "etc",
            "home",
            "proc",
            "root",
            "sys",
            "tmp",
            "usr",
            "usr/bin",
            "var",
            "var/www",
        ):
            mode = {"tmp": 0o1777, "root": 0o700}.get(directory, 0o755)
            tar.addfile(_member(directory, tarfile.DIRTYPE, mode))
        content = binary.read_bytes()
        member = _member("bin/busybox", tarfile.REGTYPE, 0o755)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
        for applet in sorted(set(applets) - {"busybox"}):
            link = _member(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)
        for name, text in {
            "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
            "etc/group": "root:x:0:\nnogroup:x:65534:\n",
        }.items():
            member = _member(name, tarfile.REGTYPE, 0o644)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    layer = buffer.getvalue()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(_machine(), _machine()),
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["sh"],
            "Labels": {"lab": label} if label else None,
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "busybox-static"}],
    }
    return Image(layer=layer, packed=gzip.compress(layer, 6, mtime=0), config=json.dumps(config).encode())


def archive(image: Image, *tags: str) -> bytes:
    """The image as `docker save` writes it, for `docker load`."""
    name = hashlib.sha256(image.config).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": list(tags), "Layers": ["layer.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in {
            f"{name}.json": image.config,
            "layer.tar": image.layer,
            "manifest.json": json.dumps(manifest).encode(),
        }.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def push(registry: str, repository: str, image: Image, tag: str) -> None:
    """Upload by the distribution API: blobs, then the manifest."""
    for blob in (image.config, image.packed):
        with _request("POST", f"{registry}/v2/{repository}/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        separator = "&" if "?" in location else "?"
        where = location if location.startswith("http") else registry + location
        _request("PUT", f"{where}{separator}digest={digest(blob)}", blob, "application/octet-stream").close()
    _request("PUT", f"{registry}/v2/{repository}/manifests/{tag}", image.manifest, MANIFEST_TYPE).close()


def seed(registry: str, *, timeout_s: float = 15.0) -> None:
    """Wait for the registry, then fill it."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            _request("GET", f"{registry}/v2/").close()
            break
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"the registry does not answer: {error}") from error
            time.sleep(0.05)
    image = build()
    for repository, tags in REPOSITORIES.items():
        for tag in tags:
            push(registry, repository, image, tag)


def _request(method: str, url: str, body: bytes | None = None, kind: str | None = None):  # type: ignore[no-untyped-def]
    headers = {"Content-Type": kind} if kind else {}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    return member


def _machine() -> str:
    import platform

    return platform.machine()


if __name__ == "__main__":
    seed(sys.argv[1])
