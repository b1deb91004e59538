"""What matrix optimizers share: views of a weight, polar factors, two rules."""
