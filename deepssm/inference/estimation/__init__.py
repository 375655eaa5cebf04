"""Learning parameters: maximum likelihood, EM, MCMC."""
