"""`python -m decoding_cli` is the `decoding` command."""

from decoding_evals.shell.entry import enter


def main() -> None:
    """Run the command line and exit."""
    enter("decoding_cli.app:cli", "decoding")


if __name__ == "__main__":
    main()
