"""From recordings to features: slicing, resampling, file lists, configs, feature files."""
