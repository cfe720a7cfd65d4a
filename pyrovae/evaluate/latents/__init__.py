"""What z holds: codes, information, collapse, and what can be done with them."""
