"""How to reason about it: filters, smoothers, guides and learners."""

