"""What a recipe is made of: sites, gates, selectors, phases."""
