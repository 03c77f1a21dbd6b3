"""docs/scale.md says what its scripts say; what they reckon with is what a real etcd holds."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.builders import REPOSITORY
from tests.cluster import controlplane
from tests.cluster.conftest import cluster  # noqa: F401 - the fixture

COUNTED = ("scale_requests", "scale_objects", "scale_store")
MEASURED = ("scale_etcd", "scale_gang")
PAGE = REPOSITORY / "docs/scale.md"
TOLERANCE = 0.25


@pytest.fixture
def bench() -> Iterator[None]:
    """The scripts import one another by their own names."""
    folder = str(REPOSITORY / "bench")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize("name", COUNTED)
def test_the_page_shows_what_the_script_counts(name: str) -> None:
    script, scale = (importlib.import_module(each) for each in (name, "scale"))
    tables = script.tables()
    assert tables
    for title, rows in tables.items():
        assert scale.in_page(title) == scale.block(rows), f"python bench/{name}.py --write"


def test_every_table_of_the_page_has_its_script() -> None:
    named = set(re.findall(r"<!-- (scale_\w+) \w+ -->", PAGE.read_text()))
    assert named == {*COUNTED, *MEASURED}
    scripts = {path.stem for path in (REPOSITORY / "bench").glob("scale_*.py")}
    assert scripts == named


@pytest.mark.usefixtures("bench")
def test_objects_weigh_what_the_page_reckons_with(
    cluster: controlplane.Cluster,  # noqa: F811 - the fixture
) -> None:
    if cluster.control_plane is None:
        pytest.skip("TUNELOOP_TEST_KUBECONFIG gave a cluster whose etcd cannot be asked")
    script: ModuleType = importlib.import_module("scale_etcd")
    weights = script.weigh(cluster, "weighed-by-test")
    for kind, (stored, sent) in script.MEASURED.items():
        assert weights[kind].stored == pytest.approx(stored, rel=TOLERANCE), kind
        assert weights[kind].sent == pytest.approx(sent, rel=TOLERANCE), kind
    cluster.kubectl("delete", "namespace", "weighed-by-test", "--wait=false", check=True)
