"""What all scripts of this project know about the filling lines."""
