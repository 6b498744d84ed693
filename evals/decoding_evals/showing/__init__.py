"""How results look: on a terminal, and in pictures."""
