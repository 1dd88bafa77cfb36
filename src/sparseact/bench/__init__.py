"""Speed of engines side by side: each in a process of its own, its perplexity checked, ratios of the same round."""
