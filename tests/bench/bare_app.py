"""What submissions are compared with: FastAPI and SQLAlchemy, one insert of a job and one of an event, nothing else."""

import os
import uuid
from typing import Any

import uvicorn
from fastapi import FastAPI
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, event, insert

DATA = MetaData()
JOBS = Table("bare_jobs", DATA, Column("id", String, primary_key=True), Column("body", String))
EVENTS = Table("bare_events", DATA, Column("job_id", String), Column("seq", Integer), Column("message", String))


def build_app(url: str) -> FastAPI:
    app = FastAPI()
    engine = create_engine(url, pool_size=16)
    if url.startswith("sqlite"):
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    DATA.create_all(engine)

    @app.post("/jobs")
    def create(body: dict[str, Any]) -> dict[str, str]:
        job_id = uuid.uuid4().hex
        with engine.begin() as connection:
            connection.execute(insert(JOBS).values(id=job_id, body=str(body)))
            connection.execute(insert(EVENTS).values(job_id=job_id, seq=1, message="created"))
        return {"id": job_id}

    return app


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


if __name__ == "__main__":
    uvicorn.run(
        build_app(os.environ["BARE_URL"]), port=int(os.environ["BARE_PORT"]), log_level="warning", access_log=False
    )
