"""Text from a model, whatever runs it."""
