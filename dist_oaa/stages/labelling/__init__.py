"""Work on single images, spread over processes and ranks: saliency maps and pseudo labels."""
