"""The approximate head of the model: made once, kept on disk."""
