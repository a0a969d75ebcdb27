"""The store: one conformance suite over its implementations, and what only a real file and real processes show."""
