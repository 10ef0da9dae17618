"""From texts to statistics: windows, what arrives at each matrix, and its sums."""
