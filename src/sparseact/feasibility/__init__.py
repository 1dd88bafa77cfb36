"""Is sparse activation worth it for a model, on this machine? Measured in minutes, and said in a screen of text."""

from sparseact.feasibility.outlook import Outlook, check

__all__ = ["Outlook", "check"]
