"""`python -m decoding_cli` is the `decoding` command."""

from decoding_cli.app import main

main()
