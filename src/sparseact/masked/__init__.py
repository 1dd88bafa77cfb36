"""A model of transformers under a recipe."""
