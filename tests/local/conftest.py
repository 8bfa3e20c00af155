"""Fixtures of the local exchange's tests."""

import pytest
from local_client import Client


@pytest.fixture
def client():
    """A function that opens clients, all of which are closed after the test."""
    opened = []

    def open_one(exchange, path="public", **more):
        opened.append(Client(exchange, path, **more))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()
