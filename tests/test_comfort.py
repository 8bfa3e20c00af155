"""In whatever way stored data is lost, altered or stale, some command says so, and names what cures it."""

import pytest
from harness.comfort import WAYS, Place


@pytest.fixture(scope="module")
def place(embedded_dsn, tmp_path_factory):
    """A market that stands still, and a database with all of it, to be copied for each way."""
    with Place(embedded_dsn, tmp_path_factory.mktemp("comfort")) as found:
        yield found


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_nothing_is_silent_and_all_is_cured(place, way):
    """Some command is not content, what they print names the cure, and after it all are content with the same fills."""
    found = place.go(way)
    assert not found.wrong, (found.wrong, found.before, found.text)
