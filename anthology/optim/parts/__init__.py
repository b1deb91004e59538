"""What some optimizers share: averages, points of a norm, factors, distances."""
