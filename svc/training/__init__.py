"""Training: from cached features to checkpoints in the original's file layout."""
