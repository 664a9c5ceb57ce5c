"""The attacker: a tap on the wire, what it may know, and attacks, one a file."""
