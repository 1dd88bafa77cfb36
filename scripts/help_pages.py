"""Write every --help page into docs/help.md, so that the manual cannot say anything else."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from sparseact.cli import app

COMMANDS = ("", "models", "fetch", "sweep", "score", "calibrate", "train", "eval", "generate", "bench", "check")
PAGE = Path(__file__).parents[1] / "docs" / "help.md"


def help_page(command: str) -> str:
    """What `sparseact COMMAND --help` prints on a plain terminal of 100 columns."""
    console = Console(file=StringIO(), width=100, force_terminal=False, color_system=None)
    app.help_print(command or None, console=console)
    text = console.file.getvalue()
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def all_pages() -> str:
    """The text of docs/help.md."""
    parts = ["<!-- written by scripts/help_pages.py (make pages); do not edit -->", "# Help pages"]
    for command in COMMANDS:
        title = f"sparseact {command}".strip()
        parts.append(f"## `{title} --help`\n\n```text\n{help_page(command)}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(all_pages(), encoding="utf-8")
