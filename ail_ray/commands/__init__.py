"""What `ail NAME` does: each command parses its words, calls one function of another storey, and prints."""
