"""From a model's weights and a recipe to what a step reads."""
