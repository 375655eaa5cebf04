"""What all rooms speak: models, methods, results, Gaussian algebra and Pyro sites."""
