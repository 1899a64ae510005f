"""Import checkpoints of the authors' implementation as models of this package; one file per format."""

from sivae.models.official.checkpoint import Imported, import_official

__all__ = ["Imported", "import_official"]
