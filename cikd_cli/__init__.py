"""Curriculum Information Knowledge Distillation: small Vision Transformers from small image sets."""

__version__ = "0.1.0"
