"""Files from the network: found on disk first, checked before they are kept."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen


def data_folders(subfolder: str) -> list[Path]:
    """Return the folders where data may lie: `$DEEPSSM_DATA` if set, then the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepssm"
    named = os.environ.get("DEEPSSM_DATA")
    roots = [Path(named), cache] if named else [cache]
    return [folder for root in roots for folder in (root / subfolder, root)]


def find(name: str, folders: Iterable[Path]) -> Path | None:
    """Return the first `folder / name` that is a file."""
    return next((f / name for f in folders if (f / name).is_file()), None)


def download(url: str, sha256: str, target: Path, *, timeout: float = 60.0) -> Path:
    """Fetch one file; nothing is left at `target` unless its checksum is right.

    Args:
        url: Address of the file.
        sha256: Expected SHA-256 digest, in hexadecimal.
        target: Where to keep it; its folder is made if need be.
        timeout: Seconds to wait for the server.

    Returns:
        `target`.

    Raises:
        ConnectionError: the address cannot be reached.
        ValueError: the bytes are not those expected.
    """
    try:
        with urlopen(url, timeout=timeout) as response:
            content = response.read()
    except (URLError, TimeoutError) as error:
        raise ConnectionError(
            f"Cannot download {url} ({error}). Fetch it on another machine, put it in a folder "
            "and pass that folder as `path`, or set $DEEPSSM_DATA to it."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{url} has SHA-256 {found}, expected {sha256}: the file changed or was damaged on "
            "its way. Nothing was kept; pass your own copy as `path`."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as stream:
        stream.write(content)
    os.replace(stream.name, target)
    return target
