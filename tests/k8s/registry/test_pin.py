"""The digests of base images are read from a real registry, and written into the Dockerfile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from images import pin
from tests import registry
from tuneloop.errors import Unavailable

LINES = """# syntax=docker/dockerfile:1
ARG BUILD_IMAGE={host}/build:v1
ARG BASE_IMAGE={host}/base:v1
FROM ${{BUILD_IMAGE}} AS tools
ARG BASE_IMAGE
LABEL org.opencontainers.image.base.name=${{BASE_IMAGE}}
"""


def test_tags_get_the_digests_that_they_have_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    path = tmp_path / "Dockerfile"
    (tmp_path / "images").mkdir()
    with registry.running(tmp_path / "images") as found:
        base, build = (found.push(name, {"name": name}) for name in ("base", "build"))
        path.write_text(LINES.format(host=found.host))
        changes = pin.pin(path)
        assert [line.rsplit(", ", 1)[1] for line in changes] == ["was not pinned"] * 2
        pinned = path.read_text()
        assert f"ARG BASE_IMAGE={base.replace('@', ':v1@')}\n" in pinned
        assert f"ARG BUILD_IMAGE={build.replace('@', ':v1@')}\n" in pinned
        assert re.sub(r"@sha256:\w{64}", "", pinned) == LINES.format(host=found.host)
        assert pin.pin(path) == [], "nothing has changed"
        newer = found.push("base", {"v": "2"})
        (change,) = pin.pin(path)
        assert change.endswith(f", was {base.rsplit('@', 1)[1]}")
        assert path.read_text() == pinned.replace(base.rsplit("@")[1], newer.rsplit("@")[1])
        path.write_text(pinned.replace("/base:v1", "/base:v9"))
        with pytest.raises(Unavailable, match="has no such image"):
            pin.pin(path)
        assert path.read_text() == pinned.replace("/base:v1", "/base:v9"), "nothing is written"


def test_both_images_of_the_dockerfile_have_a_digest() -> None:
    found = list(pin._DEFAULT.finditer(pin.DOCKERFILE.read_text()))
    assert {each["name"]: each["image"] for each in found} == {
        "BASE_IMAGE": "python:3.11-slim-bookworm",
        "BUILD_IMAGE": "python:3.11-bookworm",
    }
    assert all(each["digest"] for each in found)
