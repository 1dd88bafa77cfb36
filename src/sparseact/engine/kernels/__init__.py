"""The inner loops: matrix-vector, matrix-matrix, sparse axpy, attention, norms, selection."""
