"""Build the images with docker (BuildKit) or buildah: `images/build.py TARGET...`.

The pip configuration of this machine is passed as build secrets, in files that only the current
user can read and that are deleted afterwards.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
TARGETS = ("base", "serve", "train")
INDEX_OPTIONS = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries"}
"""Options of pip with which it reaches an index; other options apply only to this machine."""
CA_SECRET = "/run/secrets/cacert"


def index_options(listing: str) -> dict[str, str]:
    """Read the output of `pip config list`; later lines, such as the environment's, override.

    Args:
        listing: lines such as `global.index-url='https://…'` and `:env:.index-url='https://…'`.

    Returns:
        The options that the build needs; `cert` is a path on this machine.
    """
    found = {}
    for line in listing.splitlines():
        if matched := re.fullmatch(r"(?:global|install|:env:)\.([\w-]+)=(.+)", line):
            name = matched[1].removeprefix("default-")
            if name in INDEX_OPTIONS | {"cert"}:
                found[name] = str(ast.literal_eval(matched[2]))
    return found


def write_secrets(options: dict[str, str], folder: Path) -> list[str]:
    """Write the pip configuration for the build.

    Args:
        options: the result of `index_options`.
        folder: folder that only the current user can read.

    Returns:
        Arguments for the builder.
    """
    arguments = []
    if "cert" in options:
        arguments += ["--secret", f"id=cacert,src={options['cert']}"]
        options = options | {"cert": CA_SECRET}
    # Interpolation is off, because a password may contain a percent sign.
    parser = configparser.ConfigParser(interpolation=None)
    parser["global"] = options
    path = folder / "pip.conf"
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8") as file:
        parser.write(file)
    return [*arguments, "--secret", f"id=pipconf,src={path}"]


def engine_at_hand() -> str:
    """Return docker if its daemon answers, else buildah."""
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "info"], capture_output=True, check=False)
        if asked.returncode == 0:
            return "docker"
    if shutil.which("buildah"):
        return "buildah"
    sys.exit("image: found neither a docker daemon nor buildah; install one of them")


def output_of(*command: str) -> str:
    """Return the output of a command, or nothing if it fails, as git does outside a repository."""
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def build_arguments(named: list[str]) -> dict[str, str]:
    """Return the build arguments: version and commit, overridden by NAME=VALUE arguments."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    described = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    found = {"VERSION": project["version"], "REVISION": output_of(*described)}
    for argument in named:
        name, _, value = argument.partition("=")
        found[name] = value
    return {name: value for name, value in found.items() if value}


def default_tag(target: str, values: dict[str, str]) -> str:
    """Return the version, followed by the JAX variant of a `train` image unless it is `cpu`."""
    variant = values.get("JAX_VARIANT", "cpu")
    return values["VERSION"] + (f"-{variant}" if target == "train" and variant != "cpu" else "")


def main() -> None:
    """Build the targets one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="+", choices=TARGETS, metavar="TARGET")
    parser.add_argument(
        "--engine",
        choices=("docker", "buildah"),
        help="Builder to use. Default: docker if its daemon answers, else buildah.",
    )
    parser.add_argument(
        "--name", default="tuneloop", help="Prefix of the image names NAME-TARGET:TAG."
    )
    parser.add_argument("--tag", help="Tag of the images. Default: the version.")
    parser.add_argument(
        "--build-arg", action="append", default=[], help="Argument of the Dockerfile, NAME=VALUE."
    )
    arguments = parser.parse_args()
    engine = arguments.engine or engine_at_hand()
    values = build_arguments(arguments.build_arg)
    options = index_options(output_of(sys.executable, "-m", "pip", "config", "list"))
    # buildah's default format (OCI) cannot store a health check.
    command = [
        engine,
        "build",
        *(["--format", "docker", "--layers"] if engine == "buildah" else []),
    ]
    with tempfile.TemporaryDirectory() as folder:
        command += write_secrets(options, Path(folder))
        for name, value in values.items():
            command += ["--build-arg", f"{name}={value}"]
        for target in arguments.targets:
            image = f"{arguments.name}-{target}:{arguments.tag or default_tag(target, values)}"
            print(f"image: {image} with {engine}", file=sys.stderr)
            environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
            subprocess.run(
                [*command, "--target", target, "--tag", image, "."],
                cwd=CHECKOUT,
                env=environment,
                check=True,
            )


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(e.returncode)
