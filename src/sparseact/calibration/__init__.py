"""From a text to a recipe: samples, budgets, fits."""
