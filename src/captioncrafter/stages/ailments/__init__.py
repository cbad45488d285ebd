"""What can be wrong with what a user brings, one module for each kind of patient."""
