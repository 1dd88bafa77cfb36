"""A model of transformers under a recipe."""

from sparseact.masked.recipe import run_recipe

__all__ = ["run_recipe"]
