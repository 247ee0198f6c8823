"""One record for every exchange, and what it cost."""
