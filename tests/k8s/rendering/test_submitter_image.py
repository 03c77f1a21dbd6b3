from __future__ import annotations

from tests.k8s.rendering.test_render import IMAGE, pod_of, submitter

OTHER = f"registry.example/tuneloop-base@sha256:{'5' * 64}"


def test_the_submitter_can_have_an_image_of_its_own() -> None:
    """The stages' image of target `train` has no client of the API server."""
    job = submitter(submitter={"image": OTHER})[-1]
    (container,) = pod_of(job)["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert container["image"] == OTHER
    assert env["TUNELOOP_IMAGE_DIGEST"] == f"sha256:{'5' * 64}"
    # What names the stages' code stays what it is.
    assert job["metadata"]["annotations"]["tuneloop.dev/image"] == IMAGE
