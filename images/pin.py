"""Pin the default base images of the Dockerfile to the digests that their tags have now.

`python images/pin.py` rewrites the lines `ARG BASE_IMAGE=…` and `ARG BUILD_IMAGE=…`, and prints
each change. `.github/workflows/renew.yml` runs it every week. A digest is that of the index of all
platforms, so that one line serves amd64 and arm64.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tuneloop.errors import TuneloopError
from tuneloop.k8s.registry.labels import read_digest

DOCKERFILE = Path(__file__).parent.parent / "Dockerfile"
_DEFAULT = re.compile(
    r"^ARG (?P<name>BASE_IMAGE|BUILD_IMAGE)="
    r"(?P<image>[^\s@]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?$",
    re.MULTILINE,
)


def pin(path: Path) -> list[str]:
    """Rewrite a Dockerfile with the current digests; nothing is written if one cannot be read.

    Args:
        path: the Dockerfile.

    Returns:
        One line for each image with a new digest.

    Raises:
        TuneloopError: a registry does not tell a digest.
    """
    text, changes = path.read_text("utf-8"), []
    for found in list(_DEFAULT.finditer(text)):
        image, old = found["image"], found["digest"]
        new = read_digest(image)
        if new != old:
            line = f"ARG {found['name']}={image}@{new}"
            text = text.replace(found[0], line, 1)
            changes.append(f"{found['name']}: {image} is {new}, was {old or 'not pinned'}")
    path.write_text(text, "utf-8")
    return changes


def main() -> None:
    """Pin the images of a Dockerfile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dockerfile", nargs="?", type=Path, default=DOCKERFILE)
    try:
        for change in pin(parser.parse_args().dockerfile):
            print(change)
    except TuneloopError as e:
        sys.exit(f"pin: {e}")


if __name__ == "__main__":
    main()
