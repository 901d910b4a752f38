"""Images: what a guest's disk starts from. Image API v2, "Images"."""
