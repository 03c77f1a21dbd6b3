"""Sizes and cold starts of the images `base` and `train`, or of the given ones.

`make image ENGINE=buildah` builds the images. The script needs root, buildah and runc. A size is
compared with its limit. A start is compared with the bare interpreter or with importing only JAX.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import tomllib
from pathlib import Path

from figure import print_figure, sized

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.images.container import Image, container, mounted  # noqa: E402

ROUNDS = sized(9, 1)
BARS_MB = {"base": 400, "train": 1300}
STARTS = {
    # target -> (figure, command, command of the rival); both are commands of a shell
    "base": ("image_help", "python -m jobs export --help", "python -c pass"),
    "train": (
        "image_train_start",
        "python -c 'import jobs.train_sft_tunix'",
        "python -c 'import jax'",
    ),
}


def starts(image: Image, folder: Path, ours: str, rival: str) -> list[tuple[float, float]]:
    """Measure both alternately in one container, without its own start; return seconds."""
    once = f"date +%s%N; {ours} >/dev/null; date +%s%N; {rival}; date +%s%N"
    script = f"for i in $(seq {ROUNDS + 1}); do {once}; done"
    stamps = list(map(int, container(image, folder, ["sh", "-c", script]).run(600).stdout.split()))
    rounds = [stamps[at : at + 3] for at in range(3, len(stamps), 3)]
    return [((b - a) / 1e9, (c - b) / 1e9) for a, b, c in rounds]


def main() -> None:
    """Print the size and the start time of each image."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(BARS_MB))
    parser.add_argument("--tag", default=project["version"])
    parser.add_argument("--smoke", action="store_true", help="measure one round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for target in given.targets:
            with mounted(f"tuneloop-{target}:{given.tag}") as image:
                print_figure(f"image_{target}", "MB", [(image.size_bytes / 1e6, BARS_MB[target])])
                figure, ours, rival = STARTS[target]
                print_figure(figure, "s", starts(image, Path(folder) / target, ours, rival))


if __name__ == "__main__":
    main()
