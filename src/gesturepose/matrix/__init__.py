"""`gesturepose matrix`: what a nested pipeline has left to run, its cost, and the run, several cells at once."""
