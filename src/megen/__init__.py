"""megen: text-to-image generation shared between an edge server and a phone."""

__version__ = "0.1.0"
