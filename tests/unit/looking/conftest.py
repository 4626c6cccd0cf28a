import pytest

from tests.looked_run import make_looked


@pytest.fixture(scope="package")
def looked(tmp_path_factory):
    """A finished run that no test changes."""
    return make_looked(tmp_path_factory.mktemp("looked"))
