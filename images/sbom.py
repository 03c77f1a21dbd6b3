"""Write the SBOM of an image in CycloneDX format: `images/sbom.py IMAGE LOCK OUTPUT`.

The SBOM lists what the image really contains: Python distributions from their metadata, with the
hashes of their lock file, and Debian packages from dpkg's database. Run it in the environment of
requirements/audit.txt. Use `--root` for an unpacked image.
"""

from __future__ import annotations

import argparse
import email.parser
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

CHECKOUT = Path(__file__).resolve().parent.parent
VERSION = SchemaVersion.V1_6


def canonical(name: str) -> str:
    """Normalize the name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked_hashes(lock: str) -> dict[tuple[str, str], list[str]]:
    """Read a lock file: (name, version) -> sha256 of each file that may be installed."""
    found: dict[tuple[str, str], list[str]] = {}
    key = ("", "")
    for line in lock.splitlines():
        if pin := re.match(r"([A-Za-z0-9][^\s=]*)==([^\s;]+)", line):
            key = (canonical(pin[1]), pin[2])
        found.setdefault(key, []).extend(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found


def python_components(site: Path, hashes: dict[tuple[str, str], list[str]]) -> Iterator[Component]:
    """Yield the distributions below a site-packages folder."""
    for found in metadata.distributions(path=[str(site)]):
        name, version = canonical(found.metadata["Name"]), found.version
        sums = hashes.get((name, version), [])
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            purl=PackageURL("pypi", None, name, version),
            bom_ref=f"pypi:{name}",
            # If the lock lists several files, it is not known which one was installed.
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=value) for value in sums]
            if len(sums) == 1
            else None,
        )


def debian_components(root: Path) -> Iterator[Component]:
    """Yield the packages that are installed according to dpkg's database."""
    status = root / "var/lib/dpkg/status"
    if not status.is_file():
        return
    for paragraph in status.read_text("utf-8").strip().split("\n\n"):
        package = email.parser.HeaderParser().parsestr(paragraph)
        if package["Status"] != "install ok installed":
            continue
        name, version = package["Package"], package["Version"]
        purl = PackageURL("deb", "debian", name, version, {"arch": package["Architecture"]})
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            purl=purl,
            bom_ref=f"deb:{name}:{package['Architecture']}",
        )


def build_bom(root: Path, image: str, lock: str) -> Bom:
    """Build the SBOM of an unpacked image."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    bom = Bom()
    bom.metadata.component = Component(
        type=ComponentType.CONTAINER, name=image, version=project["version"], bom_ref="image"
    )
    (site,) = root.glob("opt/tuneloop/lib/python3*/site-packages")
    bom.components.update(python_components(site, locked_hashes(lock)))
    bom.components.update(debian_components(root))
    bom.register_dependency(bom.metadata.component, bom.components)
    return bom


def unpack(image: str, folder: Path) -> Path:
    """Unpack the metadata of an image of docker or buildah into a folder.

    Only dpkg's database and the dist-info folders are unpacked.
    """
    archive = folder / "image.tar"
    export(image, archive)
    root = folder / "root"
    with tarfile.open(archive) as tar:
        wanted = [each for each in tar if each.isfile() and is_metadata(each.name)]
        tar.extractall(root, wanted, filter="data")
    return root


def is_metadata(name: str) -> bool:
    """Return whether a file of the image belongs to the metadata of packages."""
    return name.endswith("var/lib/dpkg/status") or ".dist-info/" in name


def export(image: str, archive: Path) -> None:
    """Write the file system of an image to a tar file; with buildah, only its metadata."""
    sys.path.insert(0, str(CHECKOUT / "images"))
    from build import engine_at_hand

    if engine_at_hand() == "docker":
        start, stop = ["docker", "create", image], ["docker", "rm", "--force"]
        pack = 'docker export --output "$2" "$1"'
    else:
        start, stop = ["buildah", "from", "--pull-never", image], ["buildah", "rm"]
        # Only metadata, because packing the other gigabytes would take a minute.
        pack = (
            'cd "$(buildah mount "$1")" && '
            "find opt/tuneloop var/lib/dpkg/status -type f -path '*.dist-info/*' -o -name status | "
            'tar --create --file "$2" --files-from -'
        )
    made = subprocess.run(start, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["sh", "-c", pack, "sh", made, str(archive)], check=True)
    finally:
        subprocess.run([*stop, made], check=True, capture_output=True)


def main() -> None:
    """Write the SBOM after validating it against the CycloneDX schema."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", help="Name of an image that docker or buildah has.")
    parser.add_argument("lock", type=Path, help="Lock file that the image was built from.")
    parser.add_argument("output", type=Path, help="File to write.")
    parser.add_argument("--root", type=Path, help="Folder of the unpacked image, to read instead.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or unpack(arguments.image, Path(folder))
        bom = build_bom(root, arguments.image, arguments.lock.read_text("utf-8"))
    text = make_outputter(bom, OutputFormat.JSON, VERSION).output_as_string(indent=1)
    if problem := JsonStrictValidator(VERSION).validate_str(text):
        sys.exit(f"sbom: {arguments.image}: not valid CycloneDX {VERSION}: {problem}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text + "\n", "utf-8")
    print(f"{arguments.output}: {len(bom.components)} components")


if __name__ == "__main__":
    main()
