"""The live page: what crosses the wire as it does, and what becomes of it; it reads a capture that a tap writes."""
