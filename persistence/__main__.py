"""Runs ``holdfast`` as ``python -m persistence``."""

from persistence.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
