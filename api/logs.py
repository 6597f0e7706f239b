"""How this process logs: one line per event on standard error, JSON or plain, with no local variables in tracebacks.

Keys never reach a log line: nothing logs headers or bodies, and a traceback shows code, not values.
"""

import logging
import sys
from collections.abc import Sequence

import structlog
from structlog.typing import Processor

from orchestrator.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Set up structlog, and send what libraries log through it."""
    level = getattr(logging, settings.log_level.upper())
    shared: Sequence[Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(settings)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("botocore").setLevel(max(level, logging.WARNING))
    logging.getLogger("python_multipart").setLevel(max(level, logging.WARNING))


def _renderers(settings: Settings) -> Sequence[Processor]:
    if settings.log_format == "json":
        return (structlog.processors.format_exc_info, structlog.processors.JSONRenderer())
    return (structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),)
