"""Tables of the papers as configurations: reading, planning, running and reporting them."""
