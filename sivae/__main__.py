"""`python -m sivae`, the same as the `sivae` command."""

from sivae.cli.main import main

if __name__ == "__main__":
    main()
