from __future__ import annotations

from tests.k8s.rendering.test_render import IMAGE, pod_of, submitter

OTHER = f"registry.example/tuneloop-base@sha256:{'5' * 64}"


def test_the_submitter_can_have_an_image_of_its_own() -> None:
    """The submitter needs this option, as images of target `train` have no Kubernetes client."""
    job = submitter(submitter={"image": OTHER})[-1]
    (container,) = pod_of(job)["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert container["image"] == OTHER
    assert env["TUNELOOP_IMAGE_DIGEST"] == f"sha256:{'5' * 64}"
    # The annotation that identifies the code of the stages does not change.
    assert job["metadata"]["annotations"]["tuneloop.dev/image"] == IMAGE
