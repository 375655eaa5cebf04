"""The compiled exact filter on CPUs: data layout, driver, moments, gradient."""
