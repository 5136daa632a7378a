"""What figures may be read as: intervals, references, and which comparisons are decided."""
