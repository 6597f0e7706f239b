"""Fixtures that every test may ask for, by the module that defines them."""

pytest_plugins = [
    "tests.support.commands",
    "tests.support.databases",
    "tests.support.models",
    "tests.support.stack",
    "tests.support.storage",
    "tests.support.servers",
    "tests.support.dashboards",
    "tests.support.browsers",  # last: they use the others
]
