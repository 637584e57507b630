"""Worker: loads versions, computes batches, keeps leases; the only room that imports torch."""
