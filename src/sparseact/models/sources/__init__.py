"""What holds weights: GGUF files, safetensors, a model in memory."""
