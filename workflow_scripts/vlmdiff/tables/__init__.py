"""Column contracts of every table, and the only functions that read and write them."""
