"""What computes a trained generator: torch's nets, or a graph of it run by another engine."""
