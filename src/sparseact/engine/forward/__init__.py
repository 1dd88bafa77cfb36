"""One pass through a model: a token, a prompt, several tokens to check."""
