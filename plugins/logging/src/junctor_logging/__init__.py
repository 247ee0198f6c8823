"""One record for every exchange, and what it cost."""

from junctor_logging.plugin import Logging
from junctor_logging.record import SCHEMA, Entry, Record
from junctor_logging.sinks import Context, Rejected, Sink, Unavailable

__all__ = ["SCHEMA", "Context", "Entry", "Logging", "Record", "Rejected", "Sink", "Unavailable"]
