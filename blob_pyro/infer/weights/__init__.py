"""The posterior of the weights, and what follows them, by one pass over the events after a fit."""
