from __future__ import annotations

import pytest

from tuneloop.k8s.registry.reference import parse_reference

DIGEST = f"sha256:{'1' * 64}"


@pytest.mark.parametrize(
    ("image", "api", "version"),
    [
        ("python", "https://registry-1.docker.io/v2/library/python", "latest"),
        ("team/a:1", "https://registry-1.docker.io/v2/team/a", "1"),
        ("docker.io/python:3.11", "https://registry-1.docker.io/v2/library/python", "3.11"),
        (f"ghcr.io/o/n:v1@{DIGEST}", "https://ghcr.io/v2/o/n", DIGEST),
        ("us-docker.pkg.dev/p/r/a:b", "https://us-docker.pkg.dev/v2/p/r/a", "b"),
        ("localhost:5000/a:b", "http://localhost:5000/v2/a", "b"),
        ("127.0.0.1:5000/a/b", "http://127.0.0.1:5000/v2/a/b", "latest"),
        ("[::1]:5000/a", "http://[::1]:5000/v2/a", "latest"),
        ("localhost.example/a", "https://localhost.example/v2/a", "latest"),
        ("10.0.0.1:5000/a", "https://10.0.0.1:5000/v2/a", "latest"),
    ],
)
def test_references_have_dockers_defaults(image: str, api: str, version: str) -> None:
    found = parse_reference(image)
    assert found is not None
    assert (found.api, found.version) == (api, version)


@pytest.mark.parametrize("image", ["", "two words", "a@sha256:12", "a@b@c", " a"])
def test_other_texts_are_no_references(image: str) -> None:
    assert parse_reference(image) is None
