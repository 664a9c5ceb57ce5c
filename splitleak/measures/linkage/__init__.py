"""Leaks that are no pictures: what features tell of whether, whom and what a picture shows."""
