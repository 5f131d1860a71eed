"""What other programs read: an exported model, folders of images."""
