"""Random rows and command lines, held against what must be true of all of them."""
