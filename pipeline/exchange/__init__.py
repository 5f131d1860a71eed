"""What goes out for others: an exported model, folders of images."""
