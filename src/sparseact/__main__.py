"""`python -m sparseact` is the command line."""

from sparseact.cli import run

if __name__ == "__main__":
    run()
