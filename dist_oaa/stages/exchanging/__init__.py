"""What runs leave, as other programs expect it: maps, pixel labels and boxes in their layouts."""
