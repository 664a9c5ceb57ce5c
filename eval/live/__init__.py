"""The whole chain at once, live: cloud, tap, page and edge of one command, and the truth beside what is rebuilt."""
