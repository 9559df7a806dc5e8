"""Pictures of what co-training does: assignments of an image, and the report of a run."""
