"""What `scripts/chaos` is made of: a module for each kind of trouble, the oracle that judges, and what they share."""
