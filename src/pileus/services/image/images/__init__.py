"""Images: what a guest's disk starts from. Image API v2, "Images"."""

from .operations import Images
from .record import IMAGES, Image

__all__ = ["IMAGES", "Image", "Images"]
