"""Run by Alembic for each command; `orchestrator.store.schema` starts it with the connection to use.

SQLite cannot alter most things in place, so changes are written with `batch_alter_table`, which rebuilds the table.
"""

from alembic import context

from orchestrator.store.tables import accounts, attempts, files, jobs, pool
from orchestrator.store.tables.conventions import metadata

MODULES = (accounts, attempts, files, jobs, pool)
"""Imported so that `metadata` knows every table."""

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
