"""The linear core: structures, discretization and the step, scan, chunk and convolution views."""
