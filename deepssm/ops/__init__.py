"""The machine level: cached compiled loops, SIMD values, small matrices, memory, threads."""
