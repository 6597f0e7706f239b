"""The Python client: `from api.client import Tunepool`. See docs/python-client.md."""

from api.client.errors import ApiError, ClientError
from api.client.tunepool import Tunepool

__all__ = ["ApiError", "ClientError", "Tunepool"]
