"""The verbs: data come in, the method is chosen, results go out with their labels."""
