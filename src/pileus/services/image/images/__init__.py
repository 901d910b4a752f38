"""Images: what a guest's disk starts from. Image API v2, "Images"."""

from ..record import IMAGES, Image
from .operations import Images

__all__ = ["IMAGES", "Image", "Images"]
