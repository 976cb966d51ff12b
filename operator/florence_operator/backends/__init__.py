"""What knows of which kind an attempt's child is."""
