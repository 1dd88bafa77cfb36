"""Weights in memory: packed, repacked, read back; and inputs as int8."""
