"""Run by Alembic for each command; `orchestrator.store.schema` starts it with the connection to use.

A revision is written by hand: the next number in `versions/`, an upgrade and a downgrade. It only adds, so that the
release before can still work on the tables; what is no longer used goes one release later. SQLite cannot alter most
things in place: `op.batch_alter_table` rebuilds the table. The tests compare the outcome with the tables.
"""

from alembic import context

from orchestrator.store.tables import accounts, attempts, files, jobs, observations, pool
from orchestrator.store.tables.conventions import metadata

MODULES = (accounts, attempts, files, jobs, observations, pool)
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
