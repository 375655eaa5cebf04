"""Laws that must hold for every model: random models, gaps, batches, inputs, irregular steps."""
