"""Fixtures that every test may ask for, by the module that defines them."""

pytest_plugins = [
    "tests.support.commands",
    "tests.support.databases",
    "tests.support.models",
    "tests.support.stack",
    "tests.support.storage",
    "tests.support.servers",  # last: it uses the others
]
